"""Code shared by the comparisons on MNIST: runs in separate workdirs, and measures of their samples."""

from __future__ import annotations

import importlib
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from dpm_jax.data import Source, tfds
from dpm_jax.errors import UserError
from dpm_jax.evaluation import images, neighbours, parzen, plots, short_chains
from dpm_jax.evaluation.samples import draw
from dpm_jax.training import build, loop, workdir
from dpm_jax.training.experiment import Experiment, Params
from examples.image_quality import classifier as classifiers
from examples.image_quality import fidelity
from examples.image_quality.classifier import Classifier

__all__ = [
    "Judge",
    "Quality",
    "Run",
    "add_arguments",
    "best_and_worst",
    "check",
    "config_of",
    "judge",
    "quality",
    "rebuilt",
    "sample",
    "train",
]


# Training images stand in their place, and as many others choose a bandwidth.
_MOST_SAMPLES = 30_000


class Run(NamedTuple):
    """A trained model."""

    experiment: Experiment
    params: Params
    source: Source
    step: int


class Judge(NamedTuple):
    """References for samples: a classifier, test images, and shuffled training images, [N, 28, 28, 1] uint8."""

    classifier: Classifier
    test: np.ndarray
    training: np.ndarray


class Quality(NamedTuple):
    """Measures of samples; `training` has those of training images, which a perfect model would reach.

    Attributes:
      fidelity: by the classifier.
      parzen: Parzen-window log-likelihood of the test images.
      median_distance_to_training: to the nearest training image, see `images.Pairs`.
    """

    fidelity: fidelity.Fidelity
    parzen: images.ParzenReport
    median_distance_to_training: float


def add_arguments(parser: ArgumentParser) -> None:
    """Define the flags."""
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"), help="folder (%(default)s)")
    parser.add_argument("--data_dir", help="folder of prepared TFDS datasets; downloaded there if absent")
    parser.add_argument("--steps", type=int, default=2000, help="of training, each run (%(default)s)")
    parser.add_argument("--num_samples", type=int, default=2000, help="of each model (%(default)s)")
    parser.add_argument("--num_steps", type=int, default=50, help="of the noisy chains that draw them (%(default)s)")


def check(arguments: Namespace, names: tuple[str, ...]) -> None:
    """Refuse sizes that are out of range.

    Args:
      arguments: of `add_arguments`.
      names: of those that have to be 3 at least.

    Raises:
      UserError: naming the flag.
    """
    for name in names:
        if getattr(arguments, name) < 3:
            raise UserError(f"--{name}: must be at least 3, got {getattr(arguments, name)}")
    if arguments.num_samples > _MOST_SAMPLES:
        raise UserError(f"--num_samples: must be at most {_MOST_SAMPLES}, half of the training images")
    if arguments.num_steps > arguments.num_timesteps:
        raise UserError(f"--num_steps: must be at most --num_timesteps, {arguments.num_timesteps}")


def config_of(name: str) -> ConfigDict:
    """Return a config of the package by its name."""
    config: ConfigDict = importlib.import_module(f"dpm_jax.configs.{name}").get_config()
    return config


def train(config: ConfigDict, where: Path, source: Source) -> Run:
    """Train as train.py does; a run that is finished is only read."""
    built = build.experiment(config, source.shape)
    try:
        workdir.claim(where, config, source)
    except UserError as error:
        raise UserError(str(error).replace("--workdir", "--out")) from None
    print(f"{where}: {config.train.steps} steps", flush=True)
    step, params, stopped = loop.train(built, source, where)
    if stopped:
        raise UserError(f"{where}: stopped; the same command resumes from step {step}")
    return Run(built, params, source, step)


def rebuilt(run: Run, changes: dict[str, Any]) -> Experiment:
    """Return the run's experiment with other settings of sampling."""
    config = run.experiment.config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    return build.experiment(config, run.experiment.shape)


def judge(out: Path, data_dir: str | None) -> Judge:
    """Return the classifier of OUT/classifier.npz, trained if it is not there, and the images.

    Raises:
      UserError: if the data are not there, or the file is damaged.
    """
    where = None if data_dir is None else Path(data_dir)
    try:
        training, test = (tfds.load_labelled("mnist", "image", "label", split, where) for split in ("train", "test"))
    except ValueError as error:
        raise UserError(f"--data_dir: {error}") from None
    path = out / "classifier.npz"
    if path.exists():
        found = classifiers.load(path, training.images.shape[1:])
    else:
        out.mkdir(parents=True, exist_ok=True)
        found = classifiers.train(training, test)
        classifiers.save(path, found)
    order = np.random.default_rng(0).permutation(len(training.images))
    return Judge(found, test.images, training.images[order])


def sample(run: Run, num: int, num_steps: int | None, seed: int = 0) -> np.ndarray:
    """Return samples in grey levels, by a chain of `num_steps` evenly spaced steps, or of all if None."""
    built = run.experiment
    if num_steps is not None and num_steps < built.config.num_timesteps:
        times = short_chains.times("uniform", num_steps, built.config.num_timesteps, Path())
        built = short_chains.shortened(built, times)
    return draw(jax.random.key(seed), built, run.params, run.source.standardization, num)


def quality(samples: np.ndarray, judge: Judge) -> Quality:
    """Fidelity, Parzen estimate and nearest training images of samples [N, 28, 28, 1] uint8."""
    num = len(samples)
    half, others = judge.training[:num], judge.training[num : 2 * num]
    unit: Callable[[np.ndarray], np.ndarray] = lambda pixels: pixels.astype(np.float32) / 255  # noqa: E731
    estimate, perfect = (parzen.evaluate(unit(x), unit(others), unit(judge.test)) for x in (samples, half))
    apart = neighbours.nearest(samples[:500], judge.training).distances[:, 0]
    scale = float(judge.training.std()) * samples[0].size ** 0.5
    return Quality(
        fidelity.fidelity(judge.classifier, samples, half, judge.test),
        images.ParzenReport(estimate, perfect),
        float(np.median(apart)) / scale,
    )


def best_and_worst(named: dict[str, np.ndarray], classifier: Classifier, path: Path, num: int = 16) -> None:
    """Draw, of each set of samples, those that the classifier is surest of, and those it is least sure of."""
    rows = {}
    for name, samples in named.items():
        order = np.argsort(classifiers.examine(classifier, samples).confidence)
        rows[f"{name}: the surest"] = samples[order[::-1][:num]]
        rows[f"{name}: the least sure"] = samples[order[:num]]
    plots.save(plots.image_rows(rows), path)
