"""Evaluate a trained model: K (the ELBO) and what it is compared with, in bits.

  python evaluate.py --workdir=runs/swiss_roll
  python evaluate.py --workdir=runs/mnist --data_dir=FOLDER --parzen
  python evaluate.py --workdir=runs/swiss_roll --respacing
  python evaluate.py --workdir=runs/mnist --examples=IMAGES --ais_k=100
  python evaluate.py --workdir=runs/one --against=runs/other

Writes evaluation.json, evaluation.png and likelihood.png into the workdir, or into its folder step_STEP for another
checkpoint than the newest. --respacing adds respacing.json, respacing.png and respacing.npz, from which
sample.py --spacing=optimal takes the best times. A cold model has no likelihood: its evaluation.json and
evaluation.png say how well it restores. --examples writes scores.csv and scores.npz alone, one line for each of your
own examples; --against writes comparison.json and comparison.png alone.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl.flags import FlagValues
from jax import Array

from dpm_jax.cli import arguments as cli
from dpm_jax.data import Source
from dpm_jax.errors import UserError
from dpm_jax.evaluation import (
    comparison,
    example_scores,
    figures,
    images,
    likelihood_report,
    plots,
    report,
    report_plots,
    respacing_report,
    restoration_report,
    short_chains,
)
from dpm_jax.evaluation.estimate import keyed
from dpm_jax.run import Run
from dpm_jax.training import build, experiment, loop, mesh, programs, storage, workdir
from dpm_jax.training.hosts import decided_by_first, together

# Sections of evaluation.json, and names of the other files written.
Outcome = tuple[dict[str, Any], list[str]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, those of the process if None, and return its exit code."""
    return cli.run(__doc__, _define, _evaluate, argv)


def _define(flag: cli.Definitions) -> None:
    flag.string("workdir", "runs/swiss_roll", "Workdir of the trained model, or example:NAME (runs/swiss_roll).")
    flag.checkpoint()
    flag.string("data_dir", None, "Folder with data files (none; generated data need no files).")
    flag.integer("num_examples", None, "Number of held-out examples (evaluate.num_examples of the config).")
    flag.boolean("parzen", False, "Whether to compute the Parzen-window estimate, for image datasets with a test set.")
    flag.integer("parzen_samples", 10_000, "Number of samples of the Parzen-window estimate.", 2)
    flag.boolean(
        "truncated_normal",
        False,
        "Whether to bound the code length of 8-bit pixels by a truncated normal, too; every t is visited.",
    )
    flag.integer(
        "ais_k",
        None,
        "Largest number of trajectories per example in annealed importance sampling, 0 for none (1000; images 10; with "
        "config.edge=grid 0).",
        0,
    )
    flag.integer(
        "ais_examples",
        None,
        "Number of examples for annealed importance sampling (as many as take some seconds).",
        2,
    )
    flag.boolean(
        "respacing", False, "Whether to evaluate shorter chains with the same network and find the best times."
    )
    flag.integer(
        "respacing_examples",
        None,
        "Number of examples that choose the best times (4096 for points in the plane, 16 to 20 for images).",
        2,
    )
    flag.string(
        "examples",
        None,
        "Examples of your own to score instead: a .npy, .npz (array samples), .csv, image or folder of images (none).",
    )
    flag.string(
        "against",
        None,
        "Workdir to compare with instead, at the same --checkpoint: K on the same examples and noise (none).",
    )
    flag.integer("seed", None, "Seed of examples and noise (the config's seed + 1).", 0, 2**32 - 1)
    flag.dry_run("the bound of --num_examples examples at one t")


def _evaluate(given: FlagValues) -> None:
    with together():
        pod = cli.pod(given)
        which = cli.checkpoint(given)
        where = storage.results_folder(given.workdir)
        description = workdir.read(where)
        config = description.config
        num_examples = config.evaluate.num_examples if given.num_examples is None else given.num_examples
        if num_examples < 2:
            raise UserError(f"--num_examples: must be at least 2, got {num_examples}")
        _check_flags(given, config.kernel == "cold")
        if given.dry_run:
            built = build.experiment(config, description.shape, description.standardization)
            cli.print_cost(partial(programs.evaluation, built, num_examples), pod)
            return
        if given.ais_k and config.edge == "grid" and given.examples is None:
            raise UserError("--ais_k: with config.edge 'grid' it goes with --examples alone; leave it out")
        source = None
        if given.examples is None:
            source = build.source(config, workdir.data_dir(where, given.data_dir))
            workdir.check_source(description, source, where)
        if given.parzen and source is not None:
            images.check_parzen(source, given.parzen_samples)
        built = build.experiment(config, description.shape, description.standardization)
    seed = config.seed + 1 if given.seed is None else given.seed
    eval_key, parzen_key = jax.random.split(jax.random.key(seed))
    evaluate = _of_likelihood if built.cold is None else _of_restoration
    with mesh.over_all_devices(), ExitStack() as context:
        step, params = loop.load_params(built, where, which=which)
        newest = which == "newest" or loop.newest_step(where) == step
        where = storage.folder(decided_by_first(lambda: str(workdir.results(where, step, newest))))
        out = context.enter_context(cli.outputs(where))
        run = Run(built, params, description.standardization, step)
        if source is None:
            written = _score_examples(given, eval_key, run, out)
        elif given.against is not None:
            written = _compare(given, eval_key, run, source, num_examples, out)
        else:
            sections, written = evaluate(given, eval_key, run, source, num_examples, out)
            if given.parzen:
                parzen = images.parzen_report(parzen_key, built, params, source, given.parzen_samples)
                print(images.parzen_table(parzen))
                sections["parzen"] = keyed(parzen)
            storage.write_json(out / "evaluation.json", sections)
            written = ["evaluation.json", *written]
    print("wrote " + ", ".join(str(where / name) for name in written))


def _check_flags(given: FlagValues, cold: bool) -> None:
    if given["respacing_examples"].present and not given.respacing:
        raise UserError("--respacing_examples: needs --respacing")
    if given.examples is not None and given.against is not None:
        raise UserError("--examples, --against: give one of them")
    for instead, also in (("examples", "num_examples"), ("against", "ais_k")):
        for name in ("parzen", "ais_examples", "respacing", "truncated_normal", also):
            if given[instead].value is not None and given[name].present:
                raise UserError(f"--{name}: does not go with --{instead}")
    for name in ("ais_k", "ais_examples", "respacing", "truncated_normal", "examples", "against", "dry_run"):
        if cold and given[name].present:
            raise UserError(f"--{name}: a cold chain has no likelihood")


def _score_examples(given: FlagValues, key: Array, run: Run, out: Path) -> list[str]:
    """Score the user's own examples, and return the names of the files written."""
    x, names = example_scores.read(given.examples, run)
    scores = example_scores.score(key, run, x, names, given.ais_k or 0)
    print(example_scores.table(scores))
    return example_scores.write(scores, run.step, out)


def _compare(given: FlagValues, key: Array, run: Run, source: Source, num_examples: int, out: Path) -> list[str]:
    """Evaluate K beside that of another workdir, and return the names of the files written."""
    where = storage.folder(given.against)
    described = workdir.read(where)
    workdir.check_source(described, source, where)
    built = build.experiment(described.config, described.shape, described.standardization)
    step, params = loop.load_params(built, where, which=cli.checkpoint(given))
    other = Run(built, params, described.standardization, step)
    result, k = comparison.compare(key, (run, other), (given.workdir, str(where)), source, num_examples)
    print(comparison.table(result))
    storage.write_json(out / "comparison.json", keyed(result))
    plots.save(report_plots.comparison(result, k), out / "comparison.png")
    return ["comparison.json", "comparison.png"]


def _of_restoration(given: FlagValues, key: Array, run: Run, source: Source, num_examples: int, where: Path) -> Outcome:
    """Evaluate how well a cold model restores."""
    result = restoration_report.evaluate(key, run.experiment, run.params, source, num_examples, run.step)
    print(restoration_report.table(result))
    plots.save(report_plots.restoration(result), where / "evaluation.png")
    return keyed(result), ["evaluation.png"]


def _of_likelihood(given: FlagValues, key: Array, run: Run, source: Source, num_examples: int, where: Path) -> Outcome:
    """Evaluate K and its gap to the likelihood, of the whole chain and of shorter ones."""
    built, params, step = run.experiment, run.params, run.step
    if given.respacing:
        experiment.check_denoiser(built, params, "--respacing")
    bound_key, ais_key, respacing_key = jax.random.split(key, 3)
    result = report.evaluate(
        bound_key, built, params, source, num_examples, step, truncated=bool(given.truncated_normal)
    )
    print(report.table(result))
    plots.save(figures.of_bound(built, params, result), where / "evaluation.png")
    sections, written = keyed(result), ["evaluation.png"]
    # The sandwich needs samples from the law of levels, and chains end in a normal law.
    default = 0 if callable(built.edge) else likelihood_report.largest_k(built.shape)
    k = default if given.ais_k is None else given.ais_k
    if k > 0:
        num = given.ais_examples or likelihood_report.num_examples(built.shape, built.num_timesteps, k)
        ais = likelihood_report.evaluate(ais_key, built, params, source, result, k, num)
        print(likelihood_report.table(ais, result.unit))
        sections |= keyed(ais)
        written.append("likelihood.png")
        plots.save(report_plots.likelihood(ais, result.unit), where / "likelihood.png")
    if given.respacing:
        table_examples = given.respacing_examples or respacing_report.num_examples(built.shape)
        short, costs = respacing_report.evaluate(
            respacing_key, built, params, source, num_examples, table_examples, step
        )
        print(respacing_report.table(short))
        storage.write_json(where / "respacing.json", keyed(short))
        plots.save(report_plots.respacing(short), where / "respacing.png")
        short_chains.save(costs, where / "respacing.npz", step)
        written += [f"respacing.{suffix}" for suffix in ("json", "png", "npz")]
    return sections, written
