"""Noise of the data's spectrum in configs: trained, resumed, evaluated, sampled, and given what was observed."""

import json

import jax
import numpy as np
import pytest

import dpm_jax
from dpm_jax.coloured import Coloured
from dpm_jax.errors import UserError
from dpm_jax.training import build, workdir
from tests.commands import refused, run
from tests.test_image_runs import SMALL, make

CHANGES = {**SMALL, "evaluate.num_examples": 64}
FLAGS = ["--config=dead_leaves", *(f"--config.{name}={value}" for name, value in CHANGES.items())]


def train(where, noise):
    done = run("train", f"--workdir={where}", *FLAGS, f"--config.noise={noise}")
    assert done.code == 0, done.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train(folder / "spectrum", "spectrum")
    return folder


@pytest.fixture(scope="module")
def white(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train(folder / "white", "white")
    return folder / "white"


def test_it_begins_where_the_gaussian_model_is(trained):
    found = json.loads((trained / "spectrum" / "evaluation.json").read_text())
    # In so few steps a network learns nothing: with white noise the gain is 0.04.
    assert found["gain_bits"] > 0.3
    assert found["discretized_bits_per_dim"] is None
    assert 6 < found["discrete_bits_per_dim"] < 8


def test_the_workdir_knows_its_spectrum_and_resumes(trained):
    where = trained / "spectrum"
    before = workdir.read(where).standardization.spectrum
    done = run("train", f"--workdir={where}", *FLAGS, "--config.noise=spectrum", "--config.train.steps=30")
    assert done.code == 0, done.err
    assert "resuming from step 24" in done.out
    np.testing.assert_array_equal(workdir.read(where).standardization.spectrum.log_scale, before.log_scale)
    refused(run("train", f"--workdir={where}", *FLAGS), "belongs to another config", "noise: spectrum, now white")
    run_of = dpm_jax.load(where)
    assert isinstance(run_of.experiment.model(run_of.params).process, Coloured)
    small = trained / "small"
    run_of.save(small)
    x = run_of.sample(jax.random.key(1), 2)
    np.testing.assert_array_equal(dpm_jax.load(small).sample(jax.random.key(1), 2), x)


def test_it_is_sampled_in_other_sizes_and_fewer_steps(trained):
    for flags, size in ((["--size=16"], 16), (["--num_steps=4", "--eta=0"], 8)):
        out = run("sample", f"--workdir={trained / 'spectrum'}", "--num_samples=4", *flags)
        assert out.code == 0, out.err
        with np.load(trained / "spectrum" / "samples" / "samples.npz") as found:
            assert found["samples"].shape == (4, size, size, 1)
            assert found["samples"].std() > 10


def test_it_is_evaluated_in_other_ways_and_against_white_noise(trained, white):
    where = trained / "spectrum"
    done = run("evaluate", f"--workdir={where}", "--num_examples=8", "--ais_k=10", "--ais_examples=4", "--respacing")
    assert done.code == 0, done.err
    done = run("evaluate", f"--workdir={where}", f"--against={white}", "--num_examples=16")
    assert done.code == 0, done.err
    compared = json.loads((where / "comparison.json").read_text())
    assert compared["difference_bits"] > 0.2


@pytest.mark.parametrize("num_particles", [0, 20])
def test_observed_pixels_stay_and_evidence_is_finite(trained, num_particles):
    flags = ["--inpaint=held_out", "--mask=left", "--num_observations=2", "--num_samples=3"]
    done = run("sample", f"--workdir={trained / 'spectrum'}", *flags, f"--num_particles={num_particles}")
    assert done.code == 0, done.err
    assert ("log2 p(observed)" in done.out) == (num_particles > 0)
    with np.load(trained / "spectrum" / "posterior" / "samples.npz") as found:
        seen, samples = found["mask"], found["samples"]
        assert seen.any()
        for draws in samples.swapaxes(0, 1):
            np.testing.assert_array_equal(draws[seen], found["observed"][seen])
        assert samples[:, 0][~seen].std() > 0
        assert (samples[:, 0] != samples[:, 1]).any()


def test_it_is_denoised_and_other_ways_are_refused(trained):
    flags = [f"--workdir={trained / 'spectrum'}", "--denoise=held_out", "--noise_sigma=20", "--add_noise"]
    done = run("sample", *flags, "--num_observations=2", "--num_samples=2")
    assert done.code == 0, done.err
    refused(run("sample", *flags, "--how=guided"), "evidence that is a law or a function, got a Linear")


def test_what_does_not_go_with_it_is_refused():
    source = build.source(make(noise="spectrum"))
    assert source.standardization.spectrum.log_scale.shape == (8, 8, 1)
    for changes, words in (
        ({"edge": "grid"}, "config.noise: 'spectrum' is for kernel 'gaussian', without the levels"),
        ({"reverse__prediction": "levels"}, "without the levels of pixels"),
        ({"train__objective": "hybrid"}, "config.noise: 'spectrum' needs train.objective 'bound' or 'limit'"),
        ({"noise": "pink"}, "config.noise: must be one of white, spectrum, got 'pink'"),
    ):
        config = make(**{"noise": "spectrum", **changes})
        with pytest.raises(UserError, match=words.replace("(", r"\(")):
            build.experiment(config, source.shape, source.standardization)
    with pytest.raises(UserError, match=r"config\.noise: 'spectrum' needs the standardization"):
        build.experiment(make(noise="spectrum"), source.shape)
    with pytest.raises(UserError, match=r"config.noise: 'spectrum' is for images, and examples have shape \(2,\)"):
        build.source(make(noise="spectrum", data__name="swiss_roll"))


def test_damaged_spectra_are_refused(trained, tmp_path):
    description = workdir.read(trained / "spectrum")
    workdir.describe(tmp_path, description)
    path = tmp_path / "data.json"
    whole = json.loads(path.read_text())
    for damage in ({"log_scale": [[[0.0]]]}, {"axes": [[float("inf")]]}, {"log_scale": None}):
        path.write_text(json.dumps(whole | {"spectrum": whole["spectrum"] | damage}))
        with pytest.raises(UserError, match=r"data.json: missing or damaged"):
            workdir.read(tmp_path)
    spread = jax.tree.map(lambda x: x + 0.1, whole["spectrum"])
    path.write_text(json.dumps(whole | {"spectrum": spread}))
    source = build.source(make(noise="spectrum"))
    with pytest.raises(UserError, match=r"their spectrum differs by a factor of 1\.1"):
        workdir.check_source(workdir.read(tmp_path), source, tmp_path)
