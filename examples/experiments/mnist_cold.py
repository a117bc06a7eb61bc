"""MNIST: cold diffusion by blurring against Gaussian diffusion, the same network and number of optimizer steps.

The Gaussian model is that of `mnist_objectives` that predicts noise; it draws by chains of --num_steps steps, and of as
many as the cold chain has. The cold model draws by both rules.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from dpm_jax.errors import UserError
from dpm_jax.evaluation.estimate import keyed
from dpm_jax.training import build
from dpm_jax.training.storage import write_json
from examples.experiments import mnist_objectives, mnist_runs
from examples.experiments.mnist_objectives import quality_lines

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "cold diffusion by blurring against Gaussian diffusion on MNIST; half an hour on 2 CPU cores"


def add_arguments(parser: ArgumentParser) -> None:
    """Define the flags."""
    mnist_runs.add_arguments(parser)
    parser.add_argument("--num_timesteps", type=int, default=1000, help="T of the Gaussian model (%(default)s)")
    parser.add_argument("--cold_timesteps", type=int, default=20, help="T of the cold one (%(default)s)")


def run(arguments: Namespace) -> None:
    """Train what is not trained yet, draw, and print the table.

    Raises:
      UserError: if data are missing, or sizes are out of range.
    """
    mnist_runs.check(arguments, ("steps", "num_samples", "num_steps", "num_timesteps", "cold_timesteps"))
    if arguments.cold_timesteps > arguments.num_timesteps:
        raise UserError(f"--cold_timesteps: must be at most --num_timesteps, {arguments.num_timesteps}")
    judge = mnist_runs.judge(arguments.out, arguments.data_dir)
    folder = arguments.out / "mnist"
    ddpm = mnist_objectives.configs(arguments.steps, arguments.num_timesteps)["ddpm"]
    source = build.source(ddpm, arguments.data_dir)
    noisy = mnist_runs.train(ddpm, folder / "ddpm", source)
    config = mnist_runs.config_of("cold_blur_mnist")
    config.num_timesteps = arguments.cold_timesteps
    config.train.steps = arguments.steps
    cold = mnist_runs.train(config, folder / "cold_blur", source)
    naive = cold._replace(experiment=mnist_runs.rebuilt(cold, {"cold.rule": "naive"}))
    num, short = arguments.num_samples, arguments.cold_timesteps
    drawn = {
        f"Gaussian, {arguments.num_steps} steps": mnist_runs.sample(noisy, num, arguments.num_steps),
        f"Gaussian, {short} steps": mnist_runs.sample(noisy, num, short),
        f"cold blur, improved, {short} steps": mnist_runs.sample(cold, num, None),
        f"cold blur, naive, {short} steps": mnist_runs.sample(naive, num, None),
    }
    qualities = {name: mnist_runs.quality(samples, judge) for name, samples in drawn.items()}
    print(f"{arguments.steps} steps of training each; {num} samples")
    print(f"{'':<36}" + "".join(f"{name:>32}" for name in drawn))
    print("\n".join(quality_lines(list(qualities.values()), 32)))
    path = arguments.out / "mnist_cold.json"
    write_json(path, {name: keyed(q) for name, q in qualities.items()})
    mnist_runs.best_and_worst(drawn, judge.classifier, path.with_suffix(".png"))
    print(f"wrote {path} and {path.with_suffix('.png')}")
