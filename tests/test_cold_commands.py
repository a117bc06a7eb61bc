"""Cold diffusion through the command line, as a user does: train, resume, evaluate, sample; and what is refused."""

import jax
import numpy as np
import pytest

from dpm_jax import sampling
from dpm_jax.errors import UserError
from dpm_jax.evaluation import restoration_report
from dpm_jax.evaluation.samples import draw
from dpm_jax.training import build, feed, step
from dpm_jax.training import config as config_lib
from tests import strict_json
from tests.commands import refused, run
from tests.test_image_runs import SMALL, make

COLD = {"kernel": "cold", "train__objective": "restoration", "num_timesteps": 6}


FLAGS = [
    f"--config.{name}={value}"
    for name, value in {
        **SMALL,
        **{name.replace("__", "."): value for name, value in COLD.items()},
        "evaluate.num_examples": 32,
    }.items()
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    where = tmp_path_factory.mktemp("cold") / "run"
    done = run("train", "--config=dead_leaves", *FLAGS, f"--workdir={where}")
    assert "mean absolute errors, 32 held-out images" in done.out
    return where


def test_training_writes_a_report_of_restoration(workdir):
    written = strict_json.parse((workdir / "evaluation.json").read_text())
    assert len(written["restored"]) == len(written["degraded"]) == 6
    assert written["num_examples"] == 32
    assert "bound_bits" not in written
    assert all((workdir / name).exists() for name in ("figure.png", "evaluation.png"))
    lines = [strict_json.parse(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert "loss" in lines[0]
    assert not any("training_bits" in line or "bound_bits" in line for line in lines)


def test_it_is_evaluated_resumed_and_sampled(workdir):
    again = run("evaluate", f"--workdir={workdir}", "--num_examples=16")
    assert "16 held-out images, T = 6, step 24" in again.out
    assert "no likelihood" in again.out
    longer = run("train", "--config=dead_leaves", *FLAGS, "--config.train.steps=30", f"--workdir={workdir}")
    assert "resuming from step 24" in longer.out
    run("sample", f"--workdir={workdir}", "--num_samples=5", "--gif")
    samples = np.load(workdir / "samples" / "samples.npz")["samples"]
    assert samples.shape == (5, 8, 8, 1)
    assert samples.dtype == np.uint8
    assert (workdir / "samples" / "trajectory.gif").exists()


def test_what_needs_a_likelihood_is_refused(workdir):
    for command, flag, words in (
        ("evaluate", "--respacing", "--respacing: a cold chain has no likelihood"),
        ("evaluate", "--ais_k=10", "--ais_k: a cold chain has no likelihood"),
        ("sample", "--num_steps=3", "--num_steps: a cold chain"),
        ("sample", "--eta=0", "--eta: DDIM is for kernel 'gaussian', and this is 'cold'"),
    ):
        refused(run(command, f"--workdir={workdir}", flag), words)


@pytest.mark.parametrize("degradation", ["blur", "pixelate", "fade", "mask"])
def test_every_degradation_is_learned_and_sampled_in_chunks(degradation):
    config = make(**COLD, cold__degradation=degradation, train__steps=80, optimizer__warmup_steps=5)
    source = build.source(config)
    built = build.experiment(config, source.shape)
    data = feed.open_feed(source.supply, 0, 16, 0, 80)
    before = restoration_report.evaluate(jax.random.key(0), built, step.init(built).params, source, 64, 0)
    np.testing.assert_allclose(before.restored.mean, before.degraded, rtol=1e-5)  # zero outputs leave x_t as it is
    state, progress = step.make_run_steps(built, data.draw)(step.init(built), 80)
    assert int(progress.failed_at) == -1
    after = restoration_report.evaluate(jax.random.key(0), built, state.params, source, 64, 80)
    assert after.mean_restored < before.mean_restored
    key = jax.random.key(1)
    whole = draw(key, built, state.params, source.standardization, 9)
    parts = draw(key, built, state.params, source.standardization, 9, chunk=4)
    assert np.abs(whole.astype(int) - parts.astype(int)).max() <= 1


def test_rules_differ_and_both_begin_at_the_law_of_the_last_step():
    changes = {"cold__rule": "naive"}
    improved, naive = (build.experiment(make(**COLD, **c), (8, 8, 1)) for c in ({}, changes))
    params = improved.init(jax.random.key(0))
    params["network"] = jax.tree.map(lambda a: a + 0.05, params["network"])

    def states(built):
        return sampling.trajectory(jax.random.key(1), built.model(params), 3, (8, 8, 1)).x

    a, b = states(improved), states(naive)
    np.testing.assert_array_equal(a[0], b[0])
    assert float(np.abs(a[-1] - b[-1]).max()) > 1e-3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train__objective": "bound"}, "'restoration' and kernel 'cold' go together, got 'bound'"),
        ({"kernel": "gaussian"}, "'restoration' and kernel 'cold' go together, got kernel 'gaussian'"),
        ({"cold__blur__sigma_final": 0.1}, "config.cold.blur.sigma_final: must be at least sigma_first, got 0.1"),
        ({"cold__degradation": "blurr"}, "did you mean blur?"),
        ({"schedule__learned": True}, "config.schedule.learned"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(UserError) as error:
        build.experiment(make(**{**COLD, **changes}), (8, 8, 1))
    assert words in str(error.value)


def test_the_rule_can_be_chosen_when_sampling(workdir, tmp_path):
    drawn = {}
    for rule in ("improved", "naive"):
        run("sample", f"--workdir={workdir}", "--num_samples=3", f"--rule={rule}", f"--out={tmp_path / rule}")
        drawn[rule] = np.load(tmp_path / rule / "samples.npz")["samples"]
    assert (drawn["improved"] != drawn["naive"]).any()


def test_vectors_are_refused():
    config = config_lib.default()
    config.kernel, config.train.objective = "cold", "restoration"
    config.data.name, config.data.file.path = "file", "points.npy"
    with pytest.raises(UserError, match=r"config\.kernel: 'cold' degrades images"):
        build.experiment(config, (3,))
