"""Train a diffusion model.

  python train.py                                   the swiss roll, in about a minute
  python train.py --config=heartbeat
  python train.py --config.train.steps=20000 --config.num_timesteps=200

The same command again resumes from the last checkpoint. Ctrl-C and SIGTERM save one first.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl.flags import FlagValues
from jax import Array
from matplotlib.figure import Figure

from dpm_jax.cli import arguments as cli
from dpm_jax.data import Source, tfds
from dpm_jax.evaluation import figures, plots, report, report_plots, restoration_report
from dpm_jax.evaluation.estimate import keyed
from dpm_jax.training import build, feed, loop, parts, programs, saved, storage, warm_start, workdir
from dpm_jax.training import config as config_lib
from dpm_jax.training import profile as trace
from dpm_jax.training.experiment import Experiment, Params
from dpm_jax.training.hosts import decided_by_first, together
from dpm_jax.training.metrics import MetricsWriter, read
from dpm_jax.training.summary import summary

# Sections of evaluation.json, and figures by name.
Outcome = tuple[dict[str, Any], dict[str, Figure]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, those of the process if None, and return its exit code."""
    return cli.run(__doc__, _define, _train, argv, lambda: parts.summary(config_lib.default()))


def _define(flag: cli.Definitions) -> None:
    flag.config("swiss_roll")
    flag.string("workdir", None, "Folder that everything is written into (runs/NAME for --config=NAME).")
    flag.string("init_from", None, "Workdir of another run, from whose averaged parameters a new run starts (none).")
    flag.string("profile_steps", None, "FIRST:LAST, steps to trace into WORKDIR/profile, for TensorBoard (none).")
    flag.dry_run("a train step")
    flag.boolean("debug_nans", False, "Whether to stop at the operation that makes the first NaN, and name it.")
    flag.string("data_dir", None, "Folder with data files (none; generated data need no files).")
    flag.boolean("download", False, "Whether to make a missing --data_dir and download the TFDS dataset into it.")


def _train(given: FlagValues) -> None:
    with ExitStack() as context:
        pod = cli.pod(given)
        if given.debug_nans:
            context.enter_context(jax.debug_nans(True))
        with together():
            config, name = given.config
            download: tfds.Download = "always" if given.download else "into_existing"
            source = build.source(config, given.data_dir, download=download)
            report.check_examples(source, config.evaluate.num_examples)
            built = build.experiment(config, source.shape, source.standardization)
            where = storage.folder(given.workdir or f"runs/{name}")
            saved.check_trainable(where)
            profile = None if given.profile_steps is None else trace.steps(given.profile_steps)
            part = config.train.batch_size // config.train.accumulate
        if given.dry_run:
            print(summary(built))
            data = feed.open_feed(source.supply, config.seed, config.train.batch_size, 0, 1)
            cli.print_cost(partial(programs.train_step, built, data), pod, config.mesh, part)
            return
        context.enter_context(cli.mesh_context(config.mesh, part))

        newest, initial = loop.newest_step(where) or 0, None
        if given.init_from is not None and not newest:
            other, initial = warm_start.params_from(storage.folder(given.init_from), built)
            print(f"starting from the parameters of step {other} of {given.init_from}")

        def take() -> None:
            context.enter_context(workdir.alone(where))
            workdir.claim(where, config, source)

        decided_by_first(take)
        print(f"{name}: writing to {where}")
        print(summary(built))
        if newest >= config.train.steps and decided_by_first(lambda: workdir.evaluated(where) == newest):
            print(f"step {newest} is trained and evaluated already; evaluate.py evaluates it in other ways")
            return
        step, params, stopped = loop.train(built, source, where, profile=profile, initial=initial)
        if stopped:
            print(f"stopped: saved step {step} of {config.train.steps}; the same command resumes from it")
            return
        key = jax.random.key(config.seed + 1)
        evaluate = _of_likelihood if built.cold is None else _of_restoration
        sections, drawn = evaluate(key, built, params, source, step)
        decided_by_first(lambda: _write(where, step, sections, drawn))


def _write(where: Path, step: int, sections: dict[str, Any], drawn: dict[str, Figure]) -> None:
    workdir.results(where, step)
    with storage.Staged(where) as staged, MetricsWriter(where, step) as metrics:
        for figure_name, figure in drawn.items():
            metrics.image(step, figure_name, plots.pixels(figure))
            plots.save(figure, staged.folder / f"{figure_name}.png")
            print(f"wrote {where / figure_name}.png")
        bound = {"step": step, "bound_bits": sections.get("bound_bits")}
        # The line exists already if the run was killed before its results were moved into place.
        if "bound_bits" in sections and bound not in read(where / "metrics.jsonl"):
            metrics.scalars(step, {"bound_bits": sections["bound_bits"]})
        storage.write_json(staged.folder / "evaluation.json", sections)


def _of_likelihood(key: Array, built: Experiment, params: Params, source: Source, step: int) -> Outcome:
    """Evaluate K, and draw the figures of a model with a likelihood."""
    eval_key, figure_key = jax.random.split(key)
    result = report.evaluate(eval_key, built, params, source, built.evaluate.num_examples, step)
    print(report.table(result))
    return keyed(result), {
        "figure": figures.of_model(figure_key, built, params, source, result),
        "evaluation": figures.of_bound(built, params, result),
    }


def _of_restoration(key: Array, built: Experiment, params: Params, source: Source, step: int) -> Outcome:
    """Evaluate the errors of a cold model, and draw its figures."""
    eval_key, figure_key = jax.random.split(key)
    result = restoration_report.evaluate(eval_key, built, params, source, built.evaluate.num_examples, step)
    print(restoration_report.table(result))
    title = f"mean restoration error {result.mean_restored:.4f} (T = {result.num_timesteps})"
    return keyed(result), {
        "figure": figures.of_images(figure_key, built, params, source, title),
        "evaluation": report_plots.restoration(result),
    }
