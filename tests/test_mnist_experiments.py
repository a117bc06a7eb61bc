"""The comparisons on MNIST, with a small network and few steps: what they print, write and go on from."""

import json

import numpy as np
import pytest

from dpm_jax.data import tfds
from dpm_jax.data.image_set import Labelled
from examples.experiments import __main__ as command
from examples.experiments import mnist_objectives, mnist_runs
from examples.image_quality import classifier
from tests.real_data import TFDS_DIR, needs_dataset

SIZES = {"steps": 4, "num_samples": 24, "num_steps": 3, "num_timesteps": 5}
FLAGS = [f"--data_dir={TFDS_DIR}", *(f"--{name}={value}" for name, value in SIZES.items())]


@pytest.fixture(scope="module")
def few():
    """Labelled images for the judge, by split."""
    parts = {split: tfds.load_labelled("mnist", "image", "label", split, TFDS_DIR) for split in ("train", "test")}
    return {split: Labelled(part.images[:600], part.labels[:600]) for split, part in parts.items()}


@pytest.fixture
def small(few, monkeypatch):
    """Few images to be judged by, and a network that compiles quickly in place of those of the configs."""
    shipped = mnist_runs.config_of
    monkeypatch.setattr(tfds, "load_labelled", lambda _name, _image, _label, split, _data_dir: few[split])

    def quick(name):
        config = shipped(name)
        config.network.name = "multiscale"
        config.network.multiscale.features, config.network.multiscale.num_layers = 4, 1
        config.train.batch_size = 8
        # So few steps have to be large ones, or the chain would not end in noise.
        config.schedule.linear.beta_final = 0.5
        return config

    monkeypatch.setattr(mnist_runs, "config_of", quick)


@pytest.fixture
def judged(few, tmp_path):
    """A folder with a classifier that has seen little."""
    quiet = classifier.train(few["train"], few["test"], num_epochs=1, report=lambda _: None)
    classifier.save(tmp_path / "classifier.npz", quiet)
    return tmp_path


@needs_dataset("mnist")
def test_objectives_and_cold_diffusion_side_by_side(judged, small, capsys):
    assert command.main(["mnist_objectives", f"--out={judged}", "--num_examples=4", *FLAGS]) == 0
    printed = capsys.readouterr().out
    assert "T = 5, 4 held-out images, 4 steps of training; 24 samples by chains of 3 steps" in printed
    written = json.loads((judged / "mnist_objectives.json").read_text())
    assert set(written) == {"ddpm", "bound"}
    for row in written.values():
        assert np.isfinite([row["bound_bits"], row["gain_bits"], row["discretized_bits_per_dim"]]).all()
        assert row["num_timesteps"] == 5
        assert row["fidelity"]["num_samples"] == 24
        assert f"{row['bound_bits']:.3f}" in printed
        assert f"{row['parzen']['model']['nats']:.1f}" in printed
    assert written["ddpm"]["bound_bits"] != written["bound"]["bound_bits"]

    # The noisy model is the one that is there already.
    assert command.main(["mnist_cold", f"--out={judged}", "--cold_timesteps=4", *FLAGS]) == 0
    printed = capsys.readouterr().out
    written = json.loads((judged / "mnist_cold.json").read_text())
    assert list(written) == [
        "Gaussian, 3 steps",
        "Gaussian, 4 steps",
        "cold blur, improved, 4 steps",
        "cold blur, naive, 4 steps",
    ]
    assert all(name in printed for name in written)
    assert all(np.isfinite(row["median_distance_to_training"]) for row in written.values())
    for name in ("mnist_objectives.png", "mnist_objectives_samples.png", "mnist_cold.png"):
        assert (judged / name).read_bytes().startswith(b"\x89PNG")
    steps = [len((judged / "mnist" / name / "metrics.jsonl").read_text().splitlines()) for name in ("ddpm", "bound")]
    assert steps == [1, 1]


@needs_dataset("mnist")
def test_training_images_in_the_samples_place_are_as_good_as_said(judged, small):
    judge = mnist_runs.judge(judged, str(TFDS_DIR))
    quality = mnist_runs.quality(judge.training[:300], judge)
    assert quality.fidelity.model == quality.fidelity.training
    assert quality.parzen.model == quality.parzen.training
    assert quality.median_distance_to_training == 0


def test_both_have_one_network_batch_and_number_of_steps():
    ddpm, bound = mnist_objectives.configs(7, 11).values()
    for name in ("network", "optimizer", "seed", "num_timesteps"):
        assert ddpm[name] == bound[name]
    assert (ddpm.train.batch_size, ddpm.train.steps) == (bound.train.batch_size, bound.train.steps)
    assert (ddpm.train.objective, bound.train.objective) == ("simple", "bound")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps=2"], "--steps: must be at least 3, got 2"),
        (["--num_samples=0"], "--num_samples: must be at least 3"),
        (["--num_samples=30001"], "--num_samples: must be at most 30000"),
        (["--num_steps=50", "--num_timesteps=40"], "--num_steps: must be at most --num_timesteps, 40"),
        (["--data_dir=nowhere"], "--data_dir: "),
    ],
)
@pytest.mark.parametrize("name", ["mnist_objectives", "mnist_cold"])
def test_what_is_refused(name, flags, words, tmp_path, capsys, monkeypatch):
    def nothing_there(*_):
        raise ValueError("mnist: nothing there")

    monkeypatch.setattr(tfds, "load_labelled", nothing_there)
    assert command.main([name, f"--out={tmp_path}", *flags]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


@needs_dataset("mnist")
def test_a_damaged_classifier_is_refused(judged, small, capsys):
    path = judged / "classifier.npz"
    path.write_bytes(path.read_bytes()[:1000])
    assert command.main(["mnist_cold", f"--out={judged}", "--cold_timesteps=4", *FLAGS]) == 2
    assert "damaged" in capsys.readouterr().err
