"""Draw samples from a trained model.

  python sample.py --workdir=runs/swiss_roll --num_samples=10000 --out=samples
  python sample.py --workdir=runs/bark --num_samples=4 --size=128

Writes samples.npz (key `samples`, in the data's own units) and samples.png into --out;
with --gif, trajectory.gif too.
"""

from pathlib import Path

import jax
import numpy as np
from absl import flags

from dpm_jax import cli, experiment, figures, plots, sampling, workdir
from dpm_jax.errors import UserError
from dpm_jax.evaluation.samples import draw
from dpm_jax.training import loop

_WORKDIR = flags.DEFINE_string("workdir", "runs/swiss_roll", "What train.py wrote.")
_OUT = flags.DEFINE_string("out", None, "Folder to write to; WORKDIR/samples if not given.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1000, "How many.")
_CHUNK_SIZE = flags.DEFINE_integer(
    "chunk_size", None, "How many to draw at a time, with the same result; what fits in memory if not given."
)
_SIZE = flags.DEFINE_integer("size", None, "Side of the images; that of the training data if not given.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the samples.", lower_bound=0, upper_bound=2**32 - 1)
_GIF = flags.DEFINE_boolean("gif", False, "Write the way from noise to samples as an animation, too.")


def _shape(built: experiment.Experiment) -> tuple[int, ...]:
    """Of one sample."""
    if _SIZE.value is None:
        return built.shape
    experiment.check_size(built, _SIZE.value)
    return (_SIZE.value, _SIZE.value, built.shape[-1])


def main() -> None:
    for flag in (_NUM_SAMPLES, _CHUNK_SIZE, _SIZE):
        if flag.value is not None and flag.value < 1:
            raise UserError(f"--{flag.name}: must be at least 1, got {flag.value}")
    where = Path(_WORKDIR.value)
    description = workdir.read(where)
    built = experiment.build(description.config, description.shape)
    shape = _shape(built)
    binary = description.config.kernel == "binomial"
    if _GIF.value and not binary and len(shape) == 1 and shape[0] < 2:
        raise UserError("--gif: needs images, bits, or points of at least 2 dimensions")
    out = Path(_OUT.value) if _OUT.value else where / "samples"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error
    _, params = loop.load_params(built, where)
    key, num_timesteps = jax.random.key(_SEED.value), description.config.num_timesteps

    samples = draw(key, built, params, description.standardization, _NUM_SAMPLES.value, shape, _CHUNK_SIZE.value)
    try:
        np.savez(out / "samples.npz", samples=samples)
        plots.save(figures.of_samples(samples, binary), out / "samples.png")
        print(f"wrote {len(samples)} samples to {out / 'samples.npz'} and {out / 'samples.png'}")
        if _GIF.value:
            kept = jax.jit(
                lambda key, params: sampling.ancestral_trajectory(
                    key,
                    built.kernel,
                    built.model(params).reverse,
                    min(_NUM_SAMPLES.value, 1000 if len(shape) == 1 else 16),
                    shape,
                    num_timesteps,
                    keep_every=max(num_timesteps // 50, 1),
                )
            )(key, params)
            states = np.asarray(description.standardization.invert(kept.x))
            plots.animate(np.asarray(kept.t), states, out / "trajectory.gif", binary)
            print(f"wrote {out / 'trajectory.gif'}")
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    cli.run(main)
