"""MNIST: noise prediction by L_simple (DDPM) and the bound K, one network, optimizer and number of steps.

Both have T = 1000. Both are compared by K on the same held-out images, every t visited, by bits/dim of the
pixels, and by samples of a shorter, evenly spaced chain, beside training images in their place.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

import jax
from ml_collections import ConfigDict

from dpm_jax.evaluation import plots, report
from dpm_jax.evaluation.estimate import Estimate, keyed
from dpm_jax.training import build
from dpm_jax.training.storage import write_json
from examples.experiments import mnist_runs
from examples.experiments.mnist_runs import Quality

__all__ = ["SUMMARY", "add_arguments", "configs", "run", "table"]

SUMMARY = "DDPM's L_simple against the bound K on MNIST: K, bits/dim and samples; half an hour on 2 CPU cores"


def add_arguments(parser: ArgumentParser) -> None:
    """Define the flags."""
    mnist_runs.add_arguments(parser)
    parser.add_argument("--num_examples", type=int, default=32, help="held-out images that K is of (%(default)s)")
    parser.add_argument("--num_timesteps", type=int, default=1000, help="T of both (%(default)s)")


def configs(steps: int, num_timesteps: int) -> dict[str, ConfigDict]:
    """Return the configs of the two runs."""
    ddpm, ours = mnist_runs.config_of("ddpm_mnist"), mnist_runs.config_of("mnist")
    ours.train.emphasis = 0.0
    ours.optimizer, ours.train.batch_size = ddpm.optimizer, ddpm.train.batch_size
    for config in (ddpm, ours):
        config.num_timesteps = num_timesteps
        config.train.steps = steps
    return {"ddpm": ddpm, "bound": ours}


_NAMES = {"ddpm": "DDPM: epsilon, L_simple (ddpm_mnist)", "bound": "bound K (T = 1000, no emphasis)"}


def run(arguments: Namespace) -> None:
    """Train what is not trained yet, evaluate, and print the table.

    Raises:
      UserError: if data are missing, or sizes are out of range.
    """
    mnist_runs.check(arguments, ("steps", "num_samples", "num_steps", "num_examples", "num_timesteps"))
    judge = mnist_runs.judge(arguments.out, arguments.data_dir)
    rows: dict[str, Any] = {}
    shown = {}
    both = configs(arguments.steps, arguments.num_timesteps)
    source = build.source(both["ddpm"], arguments.data_dir)
    for name, config in both.items():
        trained = mnist_runs.train(config, arguments.out / "mnist" / name, source)
        bound = report.evaluate(
            jax.random.key(1), trained.experiment, trained.params, source, arguments.num_examples, trained.step
        )
        samples = mnist_runs.sample(trained, arguments.num_samples, arguments.num_steps)
        rows[name] = (bound, mnist_runs.quality(samples, judge))
        shown[_NAMES[name]] = samples
    print(table(rows, arguments.num_steps))
    path = arguments.out / "mnist_objectives.json"
    write_json(path, {n: keyed(b) | keyed(q) for n, (b, q) in rows.items()})
    mnist_runs.best_and_worst(shown, judge.classifier, path.with_suffix(".png"))
    drawn = {name: samples[:32] for name, samples in shown.items()}
    plots.save(plots.image_rows(drawn), path.with_name("mnist_objectives_samples.png"))
    print(f"wrote {path}, {path.with_suffix('.png')} and mnist_objectives_samples.png")


def table(rows: dict[str, tuple[report.Report, Quality]], num_steps: int) -> str:
    """For the screen, one column a model."""
    bounds, qualities = [b for b, _ in rows.values()], [q for _, q in rows.values()]
    first = bounds[0]
    lines = [
        f"T = {first.num_timesteps}, {first.num_examples} held-out images, {first.step} steps of training; "
        f"{qualities[0].fidelity.num_samples} samples by chains of {num_steps} steps",
        f"{'':<36}" + "".join(f"{_NAMES[name]:>40}" for name in rows),
    ]

    def line(name: str, estimates: list[Estimate]) -> None:
        lines.append(f"{name:<36}" + "".join(f"{f'{e.mean:.3f} +- {e.stderr:.3f}':>40}" for e in estimates))

    line("K, bits/pixel", [b.bound_bits for b in bounds])
    line("K - L_null, bits/pixel", [b.gain_bits for b in bounds])
    line("bits/dim, dequantised", [b.discrete_bits_per_dim for b in bounds])
    line("bits/dim, discretised decoder", [b.discretized_bits_per_dim for b in bounds])
    return "\n".join(lines + quality_lines(qualities, 40))


def quality_lines(qualities: list[Quality], width: int) -> list[str]:
    """Rows about samples, one column a model."""

    def line(name: str, cells: list[str]) -> str:
        return f"{name:<36}" + "".join(f"{cell:>{width}}" for cell in cells)

    perfect = qualities[0]
    of_training, test = perfect.fidelity.training, perfect.fidelity.training.frechet
    return [
        line(
            "Frechet distance^2 (not FID)",
            [f"{q.fidelity.model.frechet.value:.1f} +- {q.fidelity.model.frechet.stderr:.1f}" for q in qualities],
        ),
        line("confidence of the classifier", [f"{q.fidelity.model.confidence.mean:.3f}" for q in qualities]),
        line("entropy of its classes, bits", [f"{q.fidelity.model.entropy_bits:.2f} of 3.32" for q in qualities]),
        line(
            "Parzen, nats", [f"{q.parzen.model.nats.mean:.1f} +- {q.parzen.model.nats.stderr:.1f}" for q in qualities]
        ),
        line("median distance to training images", [f"{q.median_distance_to_training:.2f}" for q in qualities]),
        f"training images in the samples' place: Frechet {test.value:.1f} +- {test.stderr:.1f}, confidence "
        f"{of_training.confidence.mean:.3f}, Parzen {perfect.parzen.training.nats.mean:.1f} nats; classifier's "
        f"accuracy {100 * perfect.fidelity.accuracy.mean:.2f} %, digest {perfect.fidelity.digest}",
    ]
