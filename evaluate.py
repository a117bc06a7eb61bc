"""Evaluate a trained model: K and what it can be compared with, in bits.

  python evaluate.py --workdir=runs/swiss_roll
  python evaluate.py --workdir=runs/mnist --data_dir=FOLDER --parzen
  python evaluate.py --workdir=runs/swiss_roll --respacing
  python evaluate.py --workdir=runs/mnist --examples=IMAGES --ais_k=100
  python evaluate.py --workdir=runs/one --against=runs/other

Writes evaluation.json, evaluation.png and likelihood.png into the workdir, of another checkpoint than the newest into
its folder step_STEP; with --respacing, respacing.json,
respacing.png and respacing.npz, too, by which sample.py --spacing=optimal finds the best times. A cold model
has no likelihood; of it, evaluation.json and evaluation.png say how well it restores. With --examples, scores.csv and
scores.npz alone, a line for each of the user's own examples; with --against, comparison.json and comparison.png alone.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from absl import flags
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
    respacing_report,
    restoration_report,
    short_chains,
)
from dpm_jax.run import Run
from dpm_jax.training import experiment, loop, mesh, storage, workdir
from dpm_jax.training.experiment import Experiment, Params
from dpm_jax.training.hosts import decided_by_first, together

_WORKDIR = flags.DEFINE_string("workdir", "runs/swiss_roll", "What train.py wrote.")
_CHECKPOINT = cli.checkpoint_flag()
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder with data files; generated data need none.")
_NUM_EXAMPLES = flags.DEFINE_integer("num_examples", None, "Held-out examples; the config's number if not given.")
_PARZEN = flags.DEFINE_boolean("parzen", False, "Parzen-window estimate, too; for image datasets with a test set.")
_PARZEN_SAMPLES = flags.DEFINE_integer("parzen_samples", 10_000, "Samples of that estimate.", lower_bound=2)
_AIS_K = flags.DEFINE_integer(
    "ais_k", None, "Trajectories an example, at most, of annealed importance sampling; 0: none. 1000, images 10.", 0
)
_AIS_EXAMPLES = flags.DEFINE_integer("ais_examples", None, "Its examples; what takes some seconds if not given.", 2)
_RESPACING = flags.DEFINE_boolean("respacing", False, "K of the same network with fewer steps, and the best times.")
_RESPACING_EXAMPLES = flags.DEFINE_integer(
    "respacing_examples", None, "That the best times are chosen by; 4096 of points in the plane, of images 16 to 20.", 2
)
_EXAMPLES = flags.DEFINE_string(
    "examples", None, "Score your own examples instead: a .npy, .npz (key samples), .csv, image or folder of images."
)
_AGAINST = flags.DEFINE_string("against", None, "Compare with this workdir instead: K on the same examples and noise.")
_SEED = flags.DEFINE_integer("seed", None, "Of examples and noise; the config's seed + 1 if not given.", 0, 2**32 - 1)


def _check_flags(cold: bool) -> None:
    flag: Any
    if _RESPACING_EXAMPLES.present and not _RESPACING.value:
        raise UserError("--respacing_examples: needs --respacing")
    if _EXAMPLES.value is not None and _AGAINST.value is not None:
        raise UserError("--examples, --against: give one of them")
    for instead, also in ((_EXAMPLES, _NUM_EXAMPLES), (_AGAINST, _AIS_K)):
        for flag in (_PARZEN, _AIS_EXAMPLES, _RESPACING, also):
            if instead.value is not None and flag.present:
                raise UserError(f"--{flag.name}: does not go with --{instead.name}")
    for flag in (_AIS_K, _AIS_EXAMPLES, _RESPACING, _EXAMPLES, _AGAINST):
        if cold and flag.present:
            raise UserError(f"--{flag.name}: a cold chain has no likelihood")


def _of_restoration(
    key: Array, built: Experiment, params: Params, source: Source, num_examples: int, step: int, where: Path
) -> tuple[dict[str, Any], list[str]]:
    """Errors of a cold model: sections of evaluation.json, and names of the other files written."""
    result = restoration_report.evaluate(key, built, params, source, num_examples, step)
    print(restoration_report.table(result))
    plots.save(plots.restoration(result.t, result.degraded, result.restored), where / "evaluation.png")
    return result._asdict(), ["evaluation.png"]


def _of_likelihood(
    key: Array, built: Experiment, params: Params, source: Source, num_examples: int, step: int, where: Path
) -> tuple[dict[str, Any], list[str]]:
    """K and what lies between it and the likelihood, of the whole chain and of shorter ones."""
    if _RESPACING.value:
        experiment.check_denoiser(built, params, "--respacing")
    bound_key, ais_key, respacing_key = jax.random.split(key, 3)
    result = report.evaluate(bound_key, built, params, source, num_examples, step)
    print(report.table(result))
    plots.save(figures.of_bound(built, params, result), where / "evaluation.png")
    sections, written = result._asdict(), ["evaluation.png"]
    k = likelihood_report.largest_k(built.shape) if _AIS_K.value is None else _AIS_K.value
    if k > 0:
        num = _AIS_EXAMPLES.value or likelihood_report.num_examples(built.shape, built.config.num_timesteps, k)
        ais = likelihood_report.evaluate(ais_key, built, params, source, result, k, num)
        print(likelihood_report.table(ais, result.unit))
        sections |= ais._asdict()
        written.append("likelihood.png")
        plots.save(figures.of_likelihood(ais, result.unit), where / "likelihood.png")
    if _RESPACING.value:
        table_examples = _RESPACING_EXAMPLES.value or respacing_report.num_examples(built.shape)
        short, costs = respacing_report.evaluate(
            respacing_key, built, params, source, num_examples, table_examples, step
        )
        print(respacing_report.table(short))
        storage.write_json(where / "respacing.json", short)
        plots.save(figures.of_respacing(short), where / "respacing.png")
        short_chains.save(costs, where / "respacing.npz", step)
        written += [f"respacing.{suffix}" for suffix in ("json", "png", "npz")]
    return sections, written


def _score_examples(key: Array, run: Run, path: str, step: int, out: Path) -> list[str]:
    """Scores of the user's own examples; names of the files written."""
    x = example_scores.read(path, run)
    scores = example_scores.score(key, run, x, _AIS_K.value or 0)
    print(example_scores.table(scores))
    return example_scores.write(scores, step, out)


def _compare(key: Array, first: comparison.Trained, source: Source, num_examples: int, out: Path) -> list[str]:
    """K beside that of another workdir; names of the files written."""
    where = storage.folder(str(_AGAINST.value))
    described = workdir.read(where)
    workdir.check_source(described, source, where)
    built = experiment.build(described.config, described.shape)
    step, params = loop.load_params(built, where)
    second = comparison.Trained(str(where), built, params, described.standardization, step)
    result = comparison.compare(key, first, second, source, num_examples)
    print(comparison.table(result))
    storage.write_json(out / "comparison.json", result.summary())
    picture = plots.comparison(result.first_bits, result.second_bits, result.names, result.unit)
    plots.save(picture, out / "comparison.png")
    return ["comparison.json", "comparison.png"]


def main() -> None:
    with together():
        which = _CHECKPOINT()
        where = storage.folder(_WORKDIR.value)
        description = workdir.read(where)
        config = description.config
        num_examples = config.evaluate.num_examples if _NUM_EXAMPLES.value is None else _NUM_EXAMPLES.value
        if num_examples < 2:
            raise UserError(f"--num_examples: must be at least 2, got {num_examples}")
        _check_flags(config.kernel == "cold")
        source = None
        if _EXAMPLES.value is None:
            source = experiment.open_source(config, workdir.data_dir(where, _DATA_DIR.value))
            workdir.check_source(description, source, where)
        if _PARZEN.value and source is not None:
            images.check_parzen(source, _PARZEN_SAMPLES.value)
        built = experiment.build(config, description.shape)
    seed = config.seed + 1 if _SEED.value is None else _SEED.value
    eval_key, parzen_key = jax.random.split(jax.random.key(seed))
    evaluate = _of_likelihood if built.cold is None else _of_restoration
    with mesh.over_all_devices(), ExitStack() as context:
        step, params = loop.load_params(built, where, which=which)
        newest = which == "newest" or loop.newest_step(where) == step
        where = storage.folder(decided_by_first(lambda: str(workdir.results(where, step, newest))))
        out = context.enter_context(cli.outputs(where))
        if source is None:
            run = Run(built, params, description.standardization, step)
            written = _score_examples(eval_key, run, str(_EXAMPLES.value), step, out)
        elif _AGAINST.value is not None:
            ours = comparison.Trained(_WORKDIR.value, built, params, description.standardization, step)
            written = _compare(eval_key, ours, source, num_examples, out)
        else:
            sections, written = evaluate(eval_key, built, params, source, num_examples, step, out)
            if _PARZEN.value:
                parzen = images.parzen_report(parzen_key, built, params, source, _PARZEN_SAMPLES.value)
                print(images.parzen_table(parzen))
                sections["parzen"] = parzen.asdict()
            storage.write_json(out / "evaluation.json", sections)
            written = ["evaluation.json", *written]
    print("wrote " + ", ".join(str(where / name) for name in written))


if __name__ == "__main__":
    cli.run(main)
