"""Posteriors of a trained heartbeat against Bayes' rule over its five sequences. A table of distances.

  python -m benchmarks.posterior_heartbeat --workdir=runs/heartbeat

The distance is the total variation between the frequencies of the sequences, all that are no heartbeats being one
more, and their posterior probabilities under the data's own law. Of 5000 draws chance alone makes about 0.01.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpm_jax import Bernoulli, guidance, sampling, smc
from dpm_jax.data import heartbeat
from dpm_jax.training import build, loop, workdir

_NUM = 5000


def _evidence(sequences: np.ndarray) -> dict[str, np.ndarray]:
    """Logits of the evidence on each bit, by name."""
    length = sequences.shape[1]
    place = np.arange(length)
    seen = np.where(np.random.default_rng(1).random(length) < 0.3, 1 - sequences[2], sequences[2])
    signs = 2 * seen - 1
    return {
        "first two bits are 0": np.where(place < 2, -np.inf, 0.0),
        "bit 7 is 1": np.where(place == 7, np.inf, 0.0),
        "all bits, flips of 0.4": signs * np.log(0.6 / 0.4),
        "first half, flips of 0.3": np.where(place < length // 2, signs * np.log(0.7 / 0.3), 0.0),
    }


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/heartbeat"))
    options = parser.parse_args()
    description = workdir.read(options.workdir)
    built = build.experiment(description.config, description.shape)
    _, params = loop.load_params(built, options.workdir)
    model = built.model(params)
    settings = description.config.data.heartbeat
    sequences = np.asarray(heartbeat.sequences(settings.length, settings.period))

    for name, logits in _evidence(sequences).items():
        signed = np.where(sequences > 0.5, logits, -logits)
        log_r = np.where(logits == 0, 0.0, -np.logaddexp(0, -signed)).sum(1)
        log_z = np.logaddexp.reduce(log_r) - np.log(len(sequences))
        exact = np.exp(log_r - np.logaddexp.reduce(log_r))
        r = Bernoulli(jnp.asarray(logits[None], jnp.float32))
        print(f"{name}: posterior {exact.round(3)}, log p(observed) {log_z:.3f}")

        def row(label: str, x: Any, weights: np.ndarray, more: str = "", exact: np.ndarray = exact) -> None:
            matches = (np.asarray(x)[:, None] == sequences).all(-1)
            found = (matches * weights[:, None]).sum(0)
            distance = 0.5 * (np.abs(found - exact).sum() + 1 - found.sum())
            print(f"  {label:20} {distance:7.4f}   {found.round(3)}{more}", flush=True)

        hows: tuple[guidance.How, ...] = ("constant", "annealed", "renoised", "denoised", "guided")
        for how in hows:
            chain = guidance.condition(model, r, how)
            draw = jax.jit(lambda key, chain=chain: sampling.sample(key, chain, _NUM, built.shape))
            row(how, draw(jax.random.key(0)), np.full(_NUM, 1 / _NUM))
        for how in ("denoised", "guided"):
            found = jax.jit(lambda key, how=how, r=r: smc.sample(key, model, r, how, _NUM))(jax.random.key(0))
            effective, log_p = float(found.effective_size.min()), float(found.log_evidence[0])
            weights = np.exp(np.asarray(found.log_weights[0], np.float64))
            row(f"particles, {how}", found.x[0], weights, f", least ESS {effective:.0f} of {_NUM}, log p {log_p:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
