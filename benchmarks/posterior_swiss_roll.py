"""Posteriors of a trained swiss roll against rejection sampling: a table of energy distances, and a figure.

  python -m benchmarks.posterior_swiss_roll --workdir=runs/swiss_roll --out=posterior_swiss_roll.png

Samples of the model, each kept with probability r(x) / max r, are exact draws from its posterior. The energy
distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| is 0 for equal laws (Szekely and Rizzo 2013); that of
two sets of rejection samples of the same size is what chance alone makes of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from jax import Array

from dpm_jax import Model, Normal, guidance, sampling, smc
from dpm_jax.training import build, loop, workdir

_NUM = 2000


def _evidence() -> dict[str, Any]:
    """Return the kinds of evidence, by name."""
    return {
        "half plane, x + y > 0.5": lambda x: jax.nn.log_sigmoid((x.sum(-1) - 0.5) / 0.05),
        "(0.4, 0.2) with noise 0.4": Normal(jnp.array([[0.4, 0.2]]), jnp.full((1, 2), 0.16)),
        "x = 0.2 with noise 0.02": Normal(jnp.array([[0.2, 0.0]]), jnp.array([[4e-4, jnp.inf]])),
    }


def _energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([np.linalg.norm(a - row, axis=1).mean() for row in b]))

    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/swiss_roll"))
    parser.add_argument("--out", type=Path, default=Path("posterior_swiss_roll.png"))
    parser.add_argument("--num_proposals", type=int, default=300_000, help="for rejection")
    parser.add_argument("--num_particles", type=int, default=10_000)
    options = parser.parse_args()
    description = workdir.read(options.workdir)
    built = build.experiment(description.config, description.shape)
    _, params = loop.load_params(built, options.workdir)
    model = built.model(params)

    def chain(model: Model, num: int) -> Callable[[Array], Array]:
        return jax.jit(lambda key: sampling.sample(key, model, num, (2,), chunk_size=20_000))

    proposals = chain(model, options.num_proposals)(jax.random.key(1))
    rng = np.random.default_rng(0)
    figure, axes = plt.subplots(3, 3, figsize=(9, 9.4), layout="constrained")
    print(f"{'':28} {'distance':>9}   effective size, log p(observed); chance alone")
    for column, (name, r) in enumerate(_evidence().items()):
        log_r = np.asarray(guidance.log_likelihood(r, proposals), np.float64)
        kept = np.asarray(proposals)[rng.random(len(log_r)) < np.exp(log_r - log_r.max())]
        exact, other = kept[:_NUM], kept[_NUM : 2 * _NUM]
        log_z = np.log(np.mean(np.exp(log_r)))
        print(f"{name}: {len(kept)} kept; chance {_energy_distance(exact, other):.4f}, log p {log_z:.3f}")
        hows: tuple[guidance.How, ...] = ("constant", "annealed", "guided")
        best: guidance.How = "guided"
        if isinstance(r, Normal):
            hows, best = ("constant", "annealed", "renoised", "denoised", "guided"), "denoised"
        drawn = {}
        for how in hows:
            conditioned = guidance.condition(model, r, how)
            drawn[how] = np.asarray(chain(conditioned, _NUM)(jax.random.key(2)))
            print(f"  {how:26} {_energy_distance(drawn[how], exact):9.4f}", flush=True)
        found = jax.jit(lambda key, r=r, best=best: smc.sample(key, model, r, best, options.num_particles, shape=(2,)))(
            jax.random.key(3)
        )
        weighted = np.asarray(smc.draw(jax.random.key(4), found, _NUM)[0])
        print(
            f"  {'particles, ' + best:26} {_energy_distance(weighted, exact):9.4f}   "
            f"{float(found.effective_size.min()):.0f} of {options.num_particles}, {float(found.log_evidence[0]):.3f}"
        )
        for row, (title, x) in enumerate(
            {"rejection": exact, f"{best}, one chain": drawn[best], "particles": weighted}.items()
        ):
            shown = axes[row, column]
            shown.scatter(*np.asarray(proposals)[:3000].T, s=1, color="#dddddd", linewidths=0)
            shown.scatter(*x.T, s=2, color="#2166ac", alpha=0.6, linewidths=0)
            shown.set(xlim=(-2.2, 2.2), ylim=(-2.5, 2), xticks=[], yticks=[], aspect="equal")
            shown.set_title(f"{name}\n{title}" if row == 0 else title, fontsize=10)
    figure.savefig(options.out, dpi=110)
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
