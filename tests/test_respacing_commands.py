"""The commands with chains of fewer steps: evaluate.py --respacing, sample.py --num_steps, --spacing, --eta."""

import shutil

import numpy as np
import pytest

from tests import strict_json
from tests.commands import QUICK, refused, run


@pytest.fixture(scope="module")
def roll(tmp_path_factory):
    """A trained workdir with its table of costs."""
    workdir = tmp_path_factory.mktemp("runs") / "roll"
    done = run("train", f"--workdir={workdir}", *QUICK, "--config.train.steps=300")
    assert done.code == 0, done.err
    done = run(
        *("evaluate", f"--workdir={workdir}", "--respacing", "--respacing_examples=64"),
        *("--num_examples=200", "--ais_k=0"),
    )
    assert done.code == 0, done.err
    return workdir, done.out


@pytest.fixture(scope="module")
def heartbeat(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "heartbeat"
    done = run(
        *("train", "--config=heartbeat", f"--workdir={workdir}", "--config.num_timesteps=12"),
        *("--config.train.steps=50", "--config.train.batch_size=64", "--config.evaluate.num_examples=100"),
    )
    assert done.code == 0, done.err
    return workdir


def test_evaluate_writes_the_report_and_the_table(roll):
    workdir, printed = roll
    found = strict_json.parse((workdir / "respacing.json").read_text())
    rows = found["rows"]
    assert [(row["spacing"], row["num_steps"]) for row in rows] == [
        ("all", 20),
        *((name, 10) for name in ("uniform", "quadratic", "optimal")),
    ]
    assert (found["num_examples"], found["table_examples"], found["num_timesteps"]) == (200, 64, 20)
    assert rows[0]["lost_bits"] == 0
    for row in rows:
        assert np.isfinite([value for name, value in row.items() if name != "spacing"]).all()
        assert row["lost_bits"] == pytest.approx(rows[0]["bound_bits"] - row["bound_bits"], abs=1e-5)
        assert f"{row['bound_bits']:.4f}" in printed
    assert rows[3]["table_bits"] >= max(rows[1]["table_bits"], rows[2]["table_bits"])
    assert (workdir / "respacing.png").read_bytes().startswith(b"\x89PNG")
    with np.load(workdir / "respacing.npz") as table:
        assert table["kl"].shape == (20, 20)
        assert table["times"].tolist() == list(range(1, 21))


@pytest.mark.parametrize(
    "flags",
    [
        ["--num_steps=7", "--gif"],
        ["--num_steps=7", "--spacing=quadratic"],
        ["--num_steps=7", "--spacing=optimal", "--eta=0.5", "--gif"],
        ["--num_steps=1"],
        ["--eta=0"],
    ],
)
def test_sample(flags, roll, tmp_path):
    done = run("sample", f"--workdir={roll[0]}", "--num_samples=50", f"--out={tmp_path}", *flags)
    assert done.code == 0, done.err
    samples = np.load(tmp_path / "samples.npz")["samples"]
    assert samples.shape == (50, 2)
    assert np.isfinite(samples).all()
    assert (tmp_path / "trajectory.gif").exists() == ("--gif" in flags)


def test_all_steps_are_the_chain_itself(roll, tmp_path):
    for name, flags in (("whole", []), ("all", ["--num_steps=20"])):
        done = run("sample", f"--workdir={roll[0]}", "--num_samples=40", f"--out={tmp_path / name}", *flags)
        assert done.code == 0, done.err
    whole, every = (np.load(tmp_path / name / "samples.npz")["samples"] for name in ("whole", "all"))
    np.testing.assert_allclose(every, whole, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "flags",
    [
        ["--num_particles=20"],
        ["--how=renoised", "--eta=0.2"],
        ["--how=renoised", "--num_repeats=2", "--jump_length=3"],
    ],
)
def test_posteriors_of_short_chains(flags, roll, tmp_path):
    done = run(
        *("sample", f"--workdir={roll[0]}", "--denoise=held_out", "--add_noise", "--noise_sigma=0.3"),
        *("--num_observations=2", "--num_samples=10", "--num_steps=8", f"--out={tmp_path}", *flags),
    )
    assert done.code == 0, done.err
    assert np.load(tmp_path / "samples.npz")["samples"].shape == (2, 10, 2)


def test_bits(heartbeat, tmp_path):
    done = run("sample", f"--workdir={heartbeat}", "--num_samples=20", "--num_steps=5", f"--out={tmp_path}")
    assert done.code == 0, done.err
    assert set(np.unique(np.load(tmp_path / "samples.npz")["samples"])) <= {0.0, 1.0}
    refused(run("sample", f"--workdir={heartbeat}", "--eta=0"), "--eta", "gaussian")
    refused(
        run("sample", f"--workdir={heartbeat}", "--num_steps=5", "--spacing=optimal"),
        "respacing.npz",
        "evaluate.py --respacing",
    )


@pytest.fixture(scope="module")
def sigmoid(tmp_path_factory):
    """A workdir whose model has no denoiser."""
    workdir = tmp_path_factory.mktemp("runs") / "sigmoid"
    flags = ["--config.reverse.covariance=diagonal", "--config.reverse.variance=sigmoid", "--config.train.steps=20"]
    done = run("train", f"--workdir={workdir}", *QUICK, *flags)
    assert done.code == 0, done.err
    return workdir


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        ("sample", ["--num_steps=5"], ["--num_steps", "denoiser", "config.reverse.variance 'sigmoid'"]),
        ("sample", ["--eta=0"], ["--eta", "denoiser", "config.reverse.variance 'sigmoid'"]),
        ("sample", ["--inpaint=held_out", "--mask=left", "--how=guided"], ["--how", "'guided'", "denoiser"]),
        ("evaluate", ["--respacing"], ["--respacing", "denoiser", "config.reverse.variance 'sigmoid'"]),
    ],
)
def test_what_needs_a_denoiser_is_refused_without(script, flags, words, sigmoid):
    refused(run(script, f"--workdir={sigmoid}", *flags), *words)


def test_models_without_a_denoiser_are_conditioned_by_default(sigmoid, tmp_path):
    flags = ["--inpaint=held_out", "--mask=left", "--num_observations=2", "--num_samples=3"]
    for more in ([], ["--num_particles=20"]):
        done = run("sample", f"--workdir={sigmoid}", *flags, *more, f"--out={tmp_path}")
        assert done.code == 0, done.err
        assert np.load(tmp_path / "samples.npz")["samples"].shape == (2, 3, 2)


DENOISE = ["--denoise=held_out", "--add_noise", "--noise_sigma=0.3"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num_steps=0"], ["--num_steps", "1..20", "got 0"]),
        (["--num_steps=21"], ["--num_steps", "1..20", "got 21"]),
        (["--spacing=uniform"], ["--spacing: needs --num_steps"]),
        (["--spacing=cubic", "--num_steps=3"], ["spacing"]),
        (["--eta=1.5"], ["--eta: must lie in [0, 1], got 1.5"]),
        (["--eta=nan"], ["--eta: must lie in [0, 1], got nan"]),
        ([*DENOISE, "--eta=0", "--num_particles=10"], ["--num_particles", "--eta"]),
        ([*DENOISE, "--eta=1", "--num_particles=10"], ["--num_particles", "--eta"]),
        ([*DENOISE, "--eta=0"], ["--eta", "--how=renoised"]),
        (["--rule=naive"], ["--rule: is for kernel 'cold'"]),
    ],
)
def test_sample_refuses(flags, words, roll):
    refused(run("sample", f"--workdir={roll[0]}", *flags), *words)


def test_evaluate_refuses(roll):
    refused(run("evaluate", f"--workdir={roll[0]}", "--respacing_examples=9"), "--respacing_examples")


@pytest.mark.parametrize("damage", ["cut", "other", "old"])
def test_a_damaged_table_is_one_line(damage, roll, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(roll[0], workdir)
    path = workdir / "respacing.npz"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif damage == "old":
        with np.load(path) as arrays:
            np.savez(path, **{**arrays, "step": 100})
        done = run("sample", f"--workdir={workdir}", "--num_steps=3", "--spacing=optimal")
        return refused(done, "is of step 100, and the checkpoint of step 300", "again")
    else:
        np.savez(path, times=np.arange(1, 4), edge=np.zeros(3), kl=np.zeros((3, 3)), prior=0.0)
    done = run("sample", f"--workdir={workdir}", "--num_steps=3", "--spacing=optimal")
    refused(done, "respacing.npz: damaged", "again")
