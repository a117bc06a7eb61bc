"""Draw samples from a trained model.

  python sample.py --workdir=runs/swiss_roll --num_samples=10000 --out=samples

Writes samples.npz (key `samples`, in the data's own units) and samples.png into --out;
with --gif, trajectory.gif too.
"""

from pathlib import Path

import jax
import numpy as np
from absl import flags

from dpm_jax import cli, experiment, figures, plots, sampling, workdir
from dpm_jax.errors import UserError
from dpm_jax.training import loop

_WORKDIR = flags.DEFINE_string("workdir", "runs/swiss_roll", "What train.py wrote.")
_OUT = flags.DEFINE_string("out", None, "Folder to write to; WORKDIR/samples if not given.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1000, "How many.")
_CHUNK_SIZE = flags.DEFINE_integer("chunk_size", 10000, "How many to draw at a time; the result is the same.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the samples.", lower_bound=0, upper_bound=2**32 - 1)
_GIF = flags.DEFINE_boolean("gif", False, "Write the way from noise to samples as an animation, too.")


def main() -> None:
    if _NUM_SAMPLES.value < 1 or _CHUNK_SIZE.value < 1:
        raise UserError(
            f"--num_samples, --chunk_size: must be at least 1, got {_NUM_SAMPLES.value}, {_CHUNK_SIZE.value}"
        )
    where = Path(_WORKDIR.value)
    description = workdir.read(where)
    built = experiment.build(description.config, description.shape)
    binary = description.config.kernel == "binomial"
    if _GIF.value and not binary and built.shape[0] < 2:
        raise UserError("--gif: needs points of at least 2 dimensions, or bits")
    out = Path(_OUT.value) if _OUT.value else where / "samples"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error
    _, params = loop.load_params(built, where)
    reverse = built.model(params).reverse
    key, num_timesteps = jax.random.key(_SEED.value), description.config.num_timesteps

    draw = jax.jit(
        lambda key: sampling.ancestral(
            key, built.kernel, reverse, _NUM_SAMPLES.value, built.shape, num_timesteps, chunk_size=_CHUNK_SIZE.value
        )
    )
    samples = np.asarray(description.standardization.invert(draw(key)))
    try:
        np.savez(out / "samples.npz", samples=samples)
        plots.save(figures.of_samples(samples, binary), out / "samples.png")
        print(f"wrote {len(samples)} samples to {out / 'samples.npz'} and {out / 'samples.png'}")
        if _GIF.value:
            kept = jax.jit(
                lambda key: sampling.ancestral_trajectory(
                    key,
                    built.kernel,
                    reverse,
                    min(_NUM_SAMPLES.value, 1000),
                    built.shape,
                    num_timesteps,
                    keep_every=max(num_timesteps // 50, 1),
                )
            )(key)
            states = np.asarray(description.standardization.invert(kept.x))
            plots.animate(np.asarray(kept.t), states, out / "trajectory.gif", binary)
            print(f"wrote {out / 'trajectory.gif'}")
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    cli.run(main)
