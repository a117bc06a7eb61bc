"""Training and evaluating on images: feeds, reports, and the commands as a user runs them."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from dpm_jax.data import sources
from dpm_jax.errors import UserError
from dpm_jax.evaluation import images, report
from dpm_jax.evaluation.estimate import Estimate
from dpm_jax.evaluation.samples import draw
from dpm_jax.training import build, experiment, feed, loop, step, workdir
from dpm_jax.training import config as config_lib
from dpm_jax.training.summary import summary
from tests.commands import refused, run
from tests.real_data import TFDS_DIR, needs_dataset, needs_grain

SMALL = {
    "num_timesteps": 8,
    "schedule.geometric.beta_1": 1e-4,
    "data.name": "dead_leaves",
    "data.dead_leaves.size": 8,
    "data.dead_leaves.r_max": 8.0,
    "network.name": "multiscale",
    "network.multiscale.features": 6,
    "network.multiscale.num_layers": 1,
    "train.batch_size": 16,
    "train.steps": 24,
    "train.log_every": 10,
    "train.checkpoint_every": 12,
    "evaluate.num_samples": 4,
}


def make(**changes):
    config = config_lib.default()
    config.update_from_flattened_dict({**SMALL, **{name.replace("__", "."): value for name, value in changes.items()}})
    return config


def built(config, data_dir=None):
    source = build.source(config, data_dir)
    return build.experiment(config, source.shape), source


@pytest.fixture
def array(tmp_path):
    rng = np.random.default_rng(0)
    data = (rng.integers(0, 2, (60, 1, 1, 1)) * 150 + rng.integers(0, 50, (60, 8, 8, 1))).astype(np.uint8)
    np.save(tmp_path / "x.npy", data)
    return {"data__name": "file", "data__file__path": str(tmp_path / "x.npy")}


# --- Feeds ---


def test_batches_are_taken_in_order_and_padded():
    counter = sources.Stream(
        lambda seed, size, first, **_: (np.full((size, 2), seed + i, np.uint8) for i in range(first, 100)),
        lambda key, raw: raw,
    )
    data = feed.open_feed(counter, 3, 4, 5, 6)
    assert data.capacity == 6
    first, second = data.take(6), data.take(2)
    assert first.shape == second.shape == (6, 4, 2)
    np.testing.assert_array_equal(first[:, 0, 0], 3 + np.arange(5, 11))
    np.testing.assert_array_equal(second[:, 0, 0], [14, 15, 0, 0, 0, 0])


def test_what_one_dispatch_brings_is_bounded(monkeypatch):
    monkeypatch.setattr(feed, "_MAX_BYTES", 100)
    stream = sources.Stream(
        lambda seed, size, first, **_: iter([np.zeros((size, 10), np.uint8)] * 9), lambda key, raw: raw
    )
    assert feed.open_feed(stream, 0, 3, 0, 1000).capacity == 3
    assert feed.open_feed(stream, 0, 30, 0, 1000).capacity == 1


@needs_grain
def test_resumed_training_on_images_is_bit_for_bit_the_uninterrupted_one(array, tmp_path):
    model, source = built(make(**array))
    whole = loop.train(model, source, tmp_path / "whole")
    # The learning rate follows the number of steps: cut the long run itself.
    cut = tmp_path / "cut"
    data = feed.open_feed(source.supply, 0, 16, 0, 12)
    state, _ = step.make_run_steps(model, data.draw)(step.init(model), 12, data.take(12))
    from dpm_jax.training.checkpoints import Checkpoints

    with Checkpoints(cut) as checkpoints:
        checkpoints.save(12, state, 0.0)
    resumed = loop.train(model, source, cut)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)


@needs_grain
def test_a_stream_is_one_program_whatever_the_number_of_steps(array):
    model, source = built(make(**array))
    data = feed.open_feed(source.supply, 0, 16, 0, 10)
    run_steps = step.make_run_steps(model, data.draw)
    state = step.init(model)
    for num in (10, 4, 1):
        state, progress = run_steps(state, num, data.take(num))
        assert np.isfinite(progress.loss)
    assert run_steps._cache_size() == 1
    assert int(state.step) == 15


def test_missing_grain_names_the_extra(array, tmp_path, monkeypatch):
    model, source = built(make(**array))
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(UserError, match=r"pip install 'dpm_jax\[data\]'"):
        loop.train(model, source, tmp_path)


def test_every_image_network_learns_dead_leaves():
    for changes in (
        {"network__multiscale__num_scales": 2, "network__multiscale__activation": "softplus_tanh"},
        {"network__multiscale__film": True, "train__emphasis": 0.5},
        {"network__name": "unet", "network__unet__features": (8, 8), "network__dtype": "bfloat16"},
    ):
        model, source = built(make(**changes, train__steps=150, optimizer__warmup_steps=10))
        data = feed.open_feed(source.supply, 0, 16, 0, 150)
        run_steps = step.make_run_steps(model, data.draw)
        state, first = run_steps(step.init(model), 10)
        state, _ = run_steps(state, 120)
        _, last = run_steps(state, 20)
        assert last.loss < first.loss - 0.1 * 64 * np.log(2), changes


# --- Reports ---


def test_report_counts_images_by_the_pixel():
    model, source = built(make(data__dead_leaves__channels=3))
    params = step.init(model).params
    result = report.evaluate(jax.random.key(0), model, params, source, 64, 0)
    assert result.unit == "bits/pixel"
    # Three channels of unit variance under the unit Gaussian.
    assert result.null_bits == pytest.approx(-3 * 2.047, abs=0.15)
    # At initialisation the model is the Gaussian itself, but for the chain's own loss.
    assert result.gain_bits.mean == pytest.approx(0, abs=0.1)
    by_hand = np.log2(256 / np.sqrt(12)) - result.bound_bits.mean / 3
    assert result.discrete_bits_per_dim.mean == pytest.approx(by_hand, rel=1e-6)
    assert "bits/dim of the pixels or integers, dequantised" in report.table(result)
    assert sum(result.per_step_kl_bits) == pytest.approx(result.kl_bits, rel=1e-4)


def test_discrete_bits_of_the_unit_gaussian_in_closed_form(tmp_path):
    """At initialisation the model is N(0, 1) at every t, so its chain costs KL(q(x_1 | x_0) || N(0, 1)) in all."""
    rng = np.random.default_rng(0)
    # Both ends of the scale among the values: the outermost bins are open.
    data = rng.choice(np.asarray([0, 0, 90, 160, 255, 255], np.uint8), (2000, 8, 8, 1))
    np.save(tmp_path / "x.npy", data)
    model, source = built(
        make(data__name="file", data__file__path=str(tmp_path / "x.npy"), schedule__geometric__beta_1=3e-5)
    )
    params = step.init(model).params
    result = report.evaluate(jax.random.key(0), model, params, source, 200, 0)
    mean, scale = (float(v) for v in source.standardization[:2])
    beta = 3e-5
    assert 1 / scale == pytest.approx(2 * beta**0.5, rel=0.2)  # a bin is twice the noise at t = 1: its width matters

    def gaussian_kl(x_0):
        return 0.5 * (beta + (1 - beta) * x_0**2 - 1 - np.log(beta))

    held_out = np.asarray(source.standardization.invert(source.held_out(jax.random.split(jax.random.key(0))[0], 200)))
    v = held_out.astype(np.float64).ravel()
    centre = (v + 0.5 - mean) / scale
    x_1 = np.sqrt(1 - beta) * centre + np.sqrt(beta) * rng.normal(size=(400, v.size))
    decoded = np.sqrt(1 - beta) * x_1
    low = np.where(v == 0, -np.inf, (v - mean) / scale)
    high = np.where(v == 255, np.inf, (v + 1 - mean) / scale)
    mass = scipy.stats.norm.cdf((high - decoded) / beta**0.5) - scipy.stats.norm.cdf((low - decoded) / beta**0.5)
    by_hand = (gaussian_kl(centre) - np.log(mass).mean(0)).mean() / np.log(2)
    # The pixels' own noise: 12 800 of them, each of a few tenths of a bit.
    assert result.discretized_bits_per_dim.mean == pytest.approx(by_hand, abs=0.02)


def test_bits_by_a_truncated_normal_in_closed_form(tmp_path):
    """The same model, of noise that hardly leaves the cell of a level."""
    data = np.random.default_rng(0).choice(np.asarray([0, 0, 90, 160, 255, 255], np.uint8), (2000, 8, 8, 1))
    np.save(tmp_path / "x.npy", data)
    beta = 3e-6
    model, source = built(
        make(data__name="file", data__file__path=str(tmp_path / "x.npy"), schedule__geometric__beta_1=beta)
    )
    params = step.init(model).params
    result = report.evaluate(jax.random.key(0), model, params, source, 200, 0, truncated=True)
    x_0 = np.asarray(source.standardization.centres(data))
    border = 0.5 / float(source.standardization.scale) * np.sqrt((1 - beta) / beta)
    law = scipy.stats.truncnorm(-border, border, scale=np.sqrt(beta))
    log_density = -0.5 * ((1 - beta) * (x_0**2).mean() + law.var() + np.log(2 * np.pi))
    found = result.truncated_bits_per_dim
    assert abs(found.mean + (log_density + law.entropy()) / np.log(2)) < 4 * found.stderr < 0.08
    assert "truncated normal" in report.table(result)
    assert report.evaluate(jax.random.key(0), model, params, source, 4, 0).truncated_bits_per_dim == Estimate()


def test_more_examples_than_memory_holds_are_refused_before_training():
    _, source = built(make(data__dead_leaves__size=256, data__dead_leaves__channels=3))
    with pytest.raises(UserError, match=r"num_examples: 20000 of shape \(256, 256, 3\) are 15.7 GB; give fewer"):
        report.check_examples(source, 20000)
    assert report.check_examples(source, 100) == 100


def test_real_valued_images_have_no_discrete_bits(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 8, 8, 1)))
    model, source = built(make(data__name="file", data__file__path=str(tmp_path / "x.npy")))
    result = report.evaluate(jax.random.key(0), model, step.init(model).params, source, 4, 0)
    assert result.discrete_bits_per_dim == Estimate()
    assert result.discretized_bits_per_dim == Estimate()
    with pytest.raises(UserError, match="truncated_normal: is for 8-bit pixels with white noise"):
        report.evaluate(jax.random.key(0), model, step.init(model).params, source, 4, 0, truncated=True)


def test_parzen_of_images(array):
    model, source = built(make(**array))
    params = step.init(model).params
    said = []
    result = images.parzen_report(jax.random.key(0), model, params, source, 20, said.append)
    assert result.training.nats.mean > result.model.nats.mean  # an untrained model is worse than the training set
    assert result.model.num_samples == 20
    assert result.model.bits == pytest.approx(tuple(np.divide(result.model.nats, np.log(2))))
    assert "training images in their place" in images.parzen_table(result)
    with pytest.raises(UserError, match="there are 53"):
        images.parzen_report(jax.random.key(0), model, params, source, 28, said.append)
    model, source = built(make())
    with pytest.raises(UserError, match="8-bit images that has a test set"):
        images.parzen_report(jax.random.key(0), model, params, source, 20, said.append)


def test_copies_are_found(array):
    _, source = built(make(**array))
    training = source.train_examples(10)
    pairs = images.nearest_training(training[:3], source)
    np.testing.assert_array_equal(pairs.nearest, training[:3])
    np.testing.assert_array_equal(pairs.distance, 0)
    assert images.nearest_training(training, built(make())[1]) is None


def test_samples_of_another_size_and_in_chunks():
    model, source = built(make())
    params = step.init(model).params
    whole = draw(jax.random.key(0), model, params, source.standardization, 20)
    assert whole.shape == (20, 8, 8, 1)
    assert whole.dtype == np.uint8
    cut = draw(jax.random.key(0), model, params, source.standardization, 20, chunk=7)
    assert np.abs(whole.astype(int) - cut).max() <= 1  # float32 rounding may cross a pixel's edge
    assert draw(jax.random.key(0), model, params, source.standardization, 2, (24, 16, 1)).shape == (2, 24, 16, 1)


def test_summary_counts():
    model, _ = built(make(network__multiscale__pointwise_layers=0))
    # 3 x 3 x 1 x 6 + 6, and the readout of 6 channels by 10 bumps to 2, with biases.
    assert summary(model).startswith("multiscale: 200 parameters, 0.0")
    flops = float(summary(model).split(", ")[1].split()[0])
    # Two a multiplication: 8 x 8 x 9 x 6, the borders seeing less, and the readout's 8 x 8 x 6 x 2, and little more.
    assert 2 * 64 * (0.7 * 54 + 12) < flops * 1e6 < 2 * 64 * (54 + 12) * 1.6


# --- Workdirs and refusals ---


def test_pixels_are_remembered_by_the_workdir(tmp_path):
    config = make()
    _, source = built(config)
    workdir.claim(tmp_path / "w", config, source)
    description = workdir.read(tmp_path / "w")
    assert description.standardization.levels == 256
    np.testing.assert_array_equal(description.standardization.invert(jnp.asarray([[9.0, -9.0]])), [[255, 0]])
    np.testing.assert_array_equal(description.standardization.mean, source.standardization.mean)
    real = source._replace(standardization=source.standardization._replace(levels=None))
    with pytest.raises(UserError, match="pixels"):
        workdir.check_source(description, real, tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network__name": "time_mlp"}, "'time_mlp' does not take images; use multiscale or unet"),
        ({"data__name": "swiss_roll"}, "'multiscale' does not take vectors; use time_mlp"),
        (
            {"network__multiscale__num_scales": 5},
            "needs sides that are multiples of 16, the pixels of its coarsest scale, got 8x8",
        ),
        ({"network__name": "unet", "network__unet__features": (8, 8, 8, 8, 8)}, "needs sides that are multiples of 16"),
        ({"network__multiscale__kernel_size": 4}, "must be odd"),
        ({"network__multiscale__num_layers": 0}, "one path is needed"),
        ({"network__name": "unet", "network__unet__features": (8, 9)}, "config.network.unet.num_heads"),
        ({"network__dtype": "float16"}, "must be one of float32, bfloat16"),
        ({"reverse__covariance": "full"}, "the data have 64"),
        ({"data__dead_leaves__r_min": 9.0}, "r_max"),
        ({"kernel": "binomial", "schedule__name": "erase"}, "are images"),
        ({"data__crop": -1}, "config.data.crop"),
        ({"data__crop": 4}, "are not cut"),
        ({"data__dead_leaves__r_min": 0.01}, "config.data.dead_leaves.r_min"),
    ],
)
def test_what_does_not_fit_images_is_refused_in_one_line(changes, words):
    with pytest.raises(UserError) as error:
        built(make(**changes))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "size", "words"),
    [
        ({"network__multiscale__dense_layers": 1, "network__multiscale__dense_features": 4}, 16, "dense path"),
        ({"network__name": "unet"}, 16, "attention"),
        ({"network__multiscale__num_scales": 3}, 18, "multiples of 4"),
    ],
)
def test_sizes_that_a_network_cannot_draw(changes, size, words):
    model, _ = built(make(**changes))
    with pytest.raises(UserError, match=words):
        experiment.check_size(model, size)
    experiment.check_size(model, 8)


# --- Commands ---

QUICK = [f"--config.{name}={value}" for name, value in SMALL.items() if name != "data.name"]


@pytest.fixture(scope="module")
def bark(tmp_path_factory):
    """A net trained on crops of one photograph."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    photograph = np.cumsum(rng.normal(size=(96, 64)), axis=0) * 20 + 128
    Image.fromarray(np.clip(photograph, 0, 255).astype(np.uint8)).save(folder / "one.png")
    flags = ["--config=bark", *QUICK, "--config.data.folder.path=one.png", "--config.data.crop=16"]
    where = folder / "run"
    done = run(
        "train",
        *flags,
        "--config.evaluate.num_examples=32",
        "--config.data.folder.held_out=0.25",
        f"--workdir={where}",
        f"--data_dir={folder}",
    )
    assert done.code == 0, done.err
    assert "parameters" in done.out
    return where


@needs_grain
def test_crops_of_a_photograph_end_to_end(bark, tmp_path):
    result = json.loads((bark / "evaluation.json").read_text())
    assert result["unit"] == "bits/pixel"
    assert 0 < result["discrete_bits_per_dim"] < 9
    done = run("sample", f"--workdir={bark}", "--num_samples=4", "--size=48", "--gif", f"--out={tmp_path}")
    assert done.code == 0, done.err
    with np.load(tmp_path / "samples.npz") as archive:
        assert archive["samples"].shape == (4, 48, 48, 1)
        assert archive["samples"].dtype == np.uint8
    assert (tmp_path / "trajectory.gif").stat().st_size > 0
    # What sample.py writes, train.py reads.
    config = make(data__name="file", data__file__path=str(tmp_path / "samples.npz"), data__file__held_out=0.5)
    assert built(config)[1].shape == (48, 48, 1)
    refused(run("sample", f"--workdir={bark}", "--size=0"), "--size")
    refused(run("evaluate", f"--workdir={bark}", "--parzen", f"--data_dir={bark.parent}"), "--parzen")


@needs_dataset("mnist")
def test_mnist_end_to_end_on_256_images(tmp_path):
    flags = [
        "--config=mnist",
        "--config.data.tfds.train_split=train[:256]",
        "--config.data.tfds.held_out_split=test[:64]",
        "--config.num_timesteps=10",
        "--config.network.unet.features=(8,16)",
        "--config.train.batch_size=32",
        "--config.train.steps=40",
        "--config.train.log_every=20",
        "--config.train.checkpoint_every=20",
        "--config.evaluate.num_examples=32",
        "--config.evaluate.num_samples=4",
    ]
    where = tmp_path / "mnist"
    done = run("train", *flags, f"--workdir={where}", f"--data_dir={TFDS_DIR}")
    assert done.code == 0, done.err
    losses = [json.loads(line) for line in (where / "metrics.jsonl").read_text().splitlines()]
    assert losses[1]["weighted_bits"] > losses[0]["weighted_bits"]
    assert (where / "figure.png").stat().st_size > 0
    done = run("evaluate", f"--workdir={where}", f"--data_dir={TFDS_DIR}", "--parzen", "--parzen_samples=50")
    assert done.code == 0, done.err
    assert "Parzen" in done.out
    result = json.loads((where / "evaluation.json").read_text())
    assert result["num_examples"] == 32
    assert result["parzen"]["model"]["num_points"] == 64
    done = run("sample", f"--workdir={where}", "--num_samples=3", f"--out={tmp_path / 'drawn'}")
    assert done.code == 0, done.err
    with np.load(tmp_path / "drawn" / "samples.npz") as archive:
        assert archive["samples"].shape == (3, 28, 28, 1)
