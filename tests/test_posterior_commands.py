"""sample.py --denoise and --inpaint as a user runs them, for points, bits and images."""

import jax
import numpy as np
import pytest

from dpm_jax.data import heartbeat
from dpm_jax.errors import UserError
from dpm_jax.evaluation import masks, observations, posterior_samples
from dpm_jax.evaluation.examples import Examples
from dpm_jax.evaluation.posterior_samples import Plan
from dpm_jax.training import build, loop, workdir
from tests.commands import QUICK, refused, run

IMAGES = [
    "--config.num_timesteps=12",
    "--config.schedule.geometric.beta_1=0.0001",
    "--config.data.name=dead_leaves",
    "--config.data.dead_leaves.size=8",
    "--config.data.dead_leaves.r_max=8.0",
    "--config.reverse.covariance=diagonal",
    "--config.network.name=multiscale",
    "--config.network.multiscale.features=6",
    "--config.network.multiscale.num_layers=1",
    "--config.train.batch_size=16",
    "--config.train.log_every=10",
    "--config.evaluate.num_examples=8",
    "--config.evaluate.num_samples=4",
]
BITS = [
    "--config=heartbeat",
    "--config.num_timesteps=40",
    "--config.data.heartbeat.length=10",
    "--config.train.batch_size=256",
    "--config.train.log_every=100",
    "--config.evaluate.num_examples=100",
]


def train(where, *flags):
    done = run("train", f"--workdir={where}", *flags)
    assert done.code == 0, done.err
    return where


@pytest.fixture(scope="module")
def roll(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "roll", *QUICK, "--config.train.steps=300")


@pytest.fixture(scope="module")
def beat(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "beat", *BITS, "--config.train.steps=1000")


@pytest.fixture(scope="module")
def leaves(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "leaves", *IMAGES, "--config.train.steps=40")


def opened(where):
    description = workdir.read(where)
    built = build.experiment(description.config, description.shape)
    return built, loop.load_params(built, where)[1], description.standardization


def sampled(done, out):
    assert done.code == 0, done.err
    assert (out / "samples.png").stat().st_size > 0
    with np.load(out / "samples.npz") as archive:
        return dict(archive)


def test_inpainting_keeps_what_is_known_and_draws_the_rest(leaves, tmp_path):
    done = run(
        *("sample", f"--workdir={leaves}", "--inpaint=held_out", "--mask=left", "--num_observations=3"),
        *("--num_samples=5", f"--out={tmp_path}"),
    )
    found = sampled(done, tmp_path)
    assert found["samples"].shape == (3, 5, 8, 8, 1)
    assert found["samples"].dtype == np.uint8
    assert not found["mask"][:, :, :4].any()
    assert found["mask"][:, :, 4:].all()
    np.testing.assert_array_equal(found["samples"][:, :, :, 4:], found["truth"][:, None, :, 4:].repeat(5, axis=1))
    assert (found["observed"][:, :, :4] == 0).all()
    assert (found["samples"][:, 0] != found["samples"][:, 1]).any()
    np.testing.assert_allclose(found["mean"], found["samples"].mean(1), rtol=1e-6)
    assert "PSNR" in done.out
    assert "over hidden values" in done.out


@pytest.mark.parametrize("how", ["constant", "annealed", "renoised", "denoised", "guided", "matched"])
def test_every_way_keeps_known_pixels_of_images_of_any_size(leaves, how):
    built, params, standardization = opened(leaves)
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 16, 1)).astype(np.uint8)
    seen = observations.inpainting(Examples(images, None, None, "x"), built, standardization, "centre:4")
    draws = posterior_samples.draw(jax.random.key(0), built, params, standardization, seen, 2, Plan(how))
    assert draws.samples.shape == (2, 2, 12, 16, 1)
    where = np.broadcast_to(seen.mask[:, None], draws.samples.shape)
    np.testing.assert_array_equal(draws.samples[where], np.repeat(images[:, None], 2, axis=1)[where])


def test_denoising_nears_the_truth(leaves, tmp_path):
    done = run(
        *("sample", f"--workdir={leaves}", "--denoise=held_out", "--add_noise", "--noise_sigma=60"),
        *("--num_observations=6", "--num_samples=8", f"--out={tmp_path}"),
    )
    found = sampled(done, tmp_path)
    error = lambda x: np.mean((x - found["truth"]) ** 2)  # noqa: E731
    assert error(found["mean"]) < error(found["observed"])
    assert error(found["observed"]) == pytest.approx(3600, rel=0.3)
    assert found["mask"].all()
    assert "the observation itself" in done.out


def test_files_of_a_users_own(roll, tmp_path):
    x = np.array([[0.5, np.nan], [np.nan, -1.0]])
    np.savez(tmp_path / "x.npz", samples=x, mask=np.isfinite(x))
    done = run("sample", f"--workdir={roll}", f"--inpaint={tmp_path / 'x.npz'}", f"--out={tmp_path / 'o'}")
    found = sampled(done, tmp_path / "o")
    assert found["samples"].shape == (2, 4, 2)
    assert "truth" not in found
    np.testing.assert_allclose(found["samples"][0, :, 0], 0.5, rtol=1e-5)
    np.testing.assert_allclose(found["samples"][1, :, 1], -1, rtol=1e-5)
    assert (np.abs(found["samples"][0, :, 1]) < 5).all()


def test_bits_by_particles_have_the_posterior_of_bayes(beat, tmp_path):
    sequences = np.asarray(heartbeat.sequences(10, 5))
    np.savez(tmp_path / "x.npz", samples=np.zeros((1, 10)), mask=np.arange(10) < 2, truth=sequences[3:4])
    done = run(
        *("sample", f"--workdir={beat}", f"--inpaint={tmp_path / 'x.npz'}", "--num_particles=2000"),
        *("--num_samples=1000", f"--out={tmp_path}"),
    )
    x = sampled(done, tmp_path)["samples"][0]
    frequency = (x[:, None] == sequences).all(-1).mean(0)
    allowed = (sequences[:, :2] == 0).all(1)
    assert frequency[~allowed].sum() == 0
    # A thousand draws of two thousand particles, resampled on the way, and a model that is not quite the data.
    np.testing.assert_allclose(frequency[allowed], 1 / 3, atol=0.1)
    words = done.out.split("log2 p(observed), mean: ")[1]
    assert float(words.split()[0]) == pytest.approx(np.log2(0.6), abs=0.25)
    assert words.split()[1] == "+-"
    assert 0 < float(words.split()[2]) < 0.25
    hidden = float(done.out.split("log2 p(hidden | observed), mean: ")[1].split()[0])
    assert hidden == pytest.approx(np.log2(1 / 3), abs=0.4)
    assert "least effective sample size" in done.out


def test_weights_that_cannot_be_believed_are_warned_of():
    good = posterior_samples.Draws(
        np.zeros((2, 1, 2)),
        np.array([-2.0, -4.0]),
        np.array([0.3, 0.4]),
        np.array([90.0, 80.0]),
        np.zeros(2, bool),
        np.zeros(2),
    )
    lines = posterior_samples.particle_report(good, 100)
    assert lines == [
        "log2 p(observed), mean: -4.328 +- 0.361 bits an observation, the model's units",
        "least effective sample size: 80.0 of 100 particles",
    ]
    bad = good._replace(doubtful=np.array([True, False]), lost=np.array([0.0, 0.25]))
    told = posterior_samples.particle_report(bad, 100)
    assert told[:2] == lines
    assert "few particles dominate the weights of 1 of 2 observations" in told[2]
    assert "25.0% of the particles lost their weight" in told[3]


def test_noisy_bits_are_denoised(beat, tmp_path):
    done = run(
        *("sample", f"--workdir={beat}", "--denoise=held_out", "--add_noise", "--noise_sigma=0.1"),
        *("--num_observations=40", "--num_samples=9", f"--out={tmp_path}"),
    )
    found = sampled(done, tmp_path)
    wrong = np.mean(found["observed"] != found["truth"])
    assert 0.04 < wrong < 0.17
    assert np.mean((found["mean"] > 0.5) != found["truth"]) < wrong / 2


def test_chunks_hold_every_observation(roll, monkeypatch):
    built, params, standardization = opened(roll)
    x = np.stack([np.linspace(-1, 1, 7), np.zeros(7)], axis=1)
    mask = np.tile([True, False], (7, 1))
    seen = observations.Observations(x.astype(np.float32), mask, 0.0, None)
    monkeypatch.setattr(posterior_samples, "chunk_size", lambda shape, most: 4)
    draws = posterior_samples.draw(jax.random.key(0), built, params, standardization, seen, 3, Plan())
    assert draws.samples.shape == (7, 3, 2)
    np.testing.assert_allclose(draws.samples[..., 0], np.repeat(x[:, :1], 3, axis=1), rtol=1e-5)
    again = posterior_samples.draw(jax.random.key(0), built, params, standardization, seen, 3, Plan())
    np.testing.assert_array_equal(draws.samples, again.samples)


def test_repeats_and_their_lengths(roll, tmp_path):
    done = run(
        *("sample", f"--workdir={roll}", "--inpaint=held_out", "--mask=left", "--how=renoised"),
        *("--num_repeats=3", "--jump_length=7", f"--out={tmp_path}"),
    )
    assert sampled(done, tmp_path)["samples"].shape == (8, 4, 2)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--inpaint=held_out", "--denoise=held_out"], ["--denoise, --inpaint"]),
        (["--denoise=held_out", "--add_noise"], ["--noise_sigma"]),
        (["--denoise=held_out", "--noise_sigma=1"], ["--denoise", "--add_noise"]),
        (["--inpaint=", "--mask=left"], ["--inpaint", "empty"]),
        (["--inpaint=held_out", "--mask=left", "--jump_length=3"], ["--jump_length", "--num_repeats"]),
        (["--data_dir=."], ["--data_dir", "held_out"]),
        (["--denoise=held_out", "--add_noise", "--noise_sigma=-1"], ["--noise_sigma", "-1"]),
        (["--noise_sigma=1"], ["--noise_sigma", "--denoise"]),
        (["--mask=left"], ["--mask", "--inpaint"]),
        (["--inpaint=held_out"], ["--mask", masks.PRESETS]),
        (["--inpaint=held_out", "--mask=top"], ["--mask", "top", masks.PRESETS]),
        (["--inpaint=nowhere.npy", "--mask=left"], ["--inpaint", "nowhere.npy"]),
        (["--num_particles=10"], ["--num_particles", "--inpaint"]),
        (["--how=guided"], ["--how", "--inpaint"]),
        (["--inpaint=held_out", "--mask=left", "--how=renoised", "--num_particles=9"], ["--how", "renoised"]),
        (["--inpaint=held_out", "--mask=left", "--num_repeats=2", "--num_particles=9"], ["--num_repeats"]),
        (["--inpaint=held_out", "--mask=left", "--how=none"], ["--how", "guided"]),
        (["--inpaint=held_out", "--mask=left", "--gif"], ["--gif"]),
    ],
)
def test_wrong_flags_are_refused_in_one_line(roll, tmp_path, flags, words):
    refused(run("sample", f"--workdir={roll}", *flags, f"--out={tmp_path}"), *words)


def test_what_does_not_fit_the_model_is_refused(beat):
    built, _, standardization = opened(beat)
    with pytest.raises(UserError, match="10"):
        observations.inpainting(Examples(np.zeros((2, 9)), None, None, "x"), built, standardization, "left")
    seen = observations.inpainting(Examples(np.zeros((2, 10)), None, None, "x"), built, standardization, "left")
    with pytest.raises(UserError, match="matched"):
        posterior_samples.draw(jax.random.key(0), *opened(beat), seen, 1, Plan("matched"))
