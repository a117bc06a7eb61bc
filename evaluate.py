"""Evaluate a trained model: K and what it can be compared with, in bits.

  python evaluate.py --workdir=runs/swiss_roll
  python evaluate.py --workdir=runs/mnist --data_dir=FOLDER --parzen

Writes evaluation.json, evaluation.png and likelihood.png into the workdir.
"""

from pathlib import Path
from typing import Any

import jax
from absl import flags

from dpm_jax import cli, experiment, figures, plots, workdir
from dpm_jax.errors import UserError
from dpm_jax.evaluation import images, likelihood_report, report
from dpm_jax.training import loop

_WORKDIR = flags.DEFINE_string("workdir", "runs/swiss_roll", "What train.py wrote.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder with data files; generated data need none.")
_NUM_EXAMPLES = flags.DEFINE_integer("num_examples", None, "Held-out examples; the config's number if not given.")
_PARZEN = flags.DEFINE_boolean("parzen", False, "Parzen-window estimate, too; for image datasets with a test set.")
_PARZEN_SAMPLES = flags.DEFINE_integer("parzen_samples", 10_000, "Samples of that estimate.", lower_bound=2)
_AIS_K = flags.DEFINE_integer(
    "ais_k", None, "Trajectories an example, at most, of annealed importance sampling; 0: none. 1000, images 10.", 0
)
_AIS_EXAMPLES = flags.DEFINE_integer("ais_examples", None, "Its examples; what takes some seconds if not given.", 2)
_SEED = flags.DEFINE_integer("seed", None, "Of examples and noise; the config's seed + 1 if not given.", 0, 2**32 - 1)


def main() -> None:
    where = Path(_WORKDIR.value)
    description = workdir.read(where)
    config = description.config
    num_examples = config.evaluate.num_examples if _NUM_EXAMPLES.value is None else _NUM_EXAMPLES.value
    if num_examples < 2:
        raise UserError(f"--num_examples: must be at least 2, got {num_examples}")
    source = experiment.open_source(config, _DATA_DIR.value)
    workdir.check_source(description, source, where)
    if _PARZEN.value:
        images.check_parzen(source, _PARZEN_SAMPLES.value)
    built = experiment.build(config, description.shape)
    step, params = loop.load_params(built, where)
    seed = config.seed + 1 if _SEED.value is None else _SEED.value
    eval_key, parzen_key = jax.random.split(jax.random.key(seed))
    sections: dict[str, Any] = {}
    written = [where / "evaluation.json", where / "evaluation.png"]
    result = report.evaluate(eval_key, built, params, source, num_examples, step)
    print(report.table(result))
    plots.save(figures.of_bound(built, params, result), where / "evaluation.png")
    k = likelihood_report.largest_k(built.shape) if _AIS_K.value is None else _AIS_K.value
    if k > 0:
        num = _AIS_EXAMPLES.value or likelihood_report.num_examples(built.shape, config.num_timesteps, k)
        ais_key = jax.random.fold_in(eval_key, 1)
        ais = likelihood_report.evaluate(ais_key, built, params, source, result, k, num)
        print(likelihood_report.table(ais, result.unit))
        sections |= ais._asdict()
        written.append(where / "likelihood.png")
        plots.save(figures.of_likelihood(ais, result.unit), where / "likelihood.png")
    if _PARZEN.value:
        parzen = images.parzen_report(parzen_key, built, params, source, _PARZEN_SAMPLES.value)
        print(images.parzen_table(parzen))
        sections["parzen"] = parzen.asdict()
    report.write(result, where / "evaluation.json", **sections)
    print("wrote " + ", ".join(str(path) for path in written))


if __name__ == "__main__":
    cli.run(main)
