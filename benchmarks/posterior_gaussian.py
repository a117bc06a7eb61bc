"""Every way along the chain against the closed form: normal data, linear-Gaussian evidence. A table of errors.

  python -m benchmarks.posterior_gaussian

The model is the optimal chain with independent coordinates in each step ("diagonal", as a network's would
be), or with their full covariance. The error is the largest of any coordinate, in standard
deviations of the posterior; of 20 000 draws chance alone makes about 0.02 in the mean and 0.03 in the covariance.
"""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax import Gaussian, Model, Normal, forward_edge, guidance, optimal, sampling, schedules, smc

_NUM, _T = 20_000, 100
_MEAN = np.array([0.3, -0.2, 0.1, 0.0])
_COVARIANCE = np.array([[1.0, 0.6, -0.3, 0.5], [0.6, 1.0, 0.2, 0.4], [-0.3, 0.2, 1.0, -0.5], [0.5, 0.4, -0.5, 1.0]])
_EVIDENCE = {
    "all, noise 1": (np.array([1.0, -1.0, 0.5, 1.0]), np.ones(4)),
    "two known, two unseen": (np.array([1.0, 0.0, -0.7, 0.0]), np.array([0.0, np.inf, 0.0, np.inf])),
    "noise of 0.1, 0.5, 2, one unseen": (np.array([1.0, -0.5, 0.5, 0.0]), np.array([0.1, 0.5, 2.0, np.inf])),
}


def _closed_form(y: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and covariance of x given y, and log p(y)."""
    seen = np.isfinite(variance)
    cross = _COVARIANCE[:, seen]
    total = _COVARIANCE[np.ix_(seen, seen)] + np.diag(variance[seen])
    difference = y[seen] - _MEAN[seen]
    gain = np.linalg.solve(total, cross.T).T
    log_p = -0.5 * (difference @ np.linalg.solve(total, difference) + np.linalg.slogdet(2 * np.pi * total)[1])
    return _MEAN + gain @ difference, _COVARIANCE - gain @ cross.T, float(log_p)


def _errors(x: Array, mean: np.ndarray, covariance: np.ndarray, weights: np.ndarray | None = None) -> str:
    values = np.asarray(x, np.float64)
    scale = np.sqrt(np.diag(covariance))
    scale = np.where(scale > 1e-6, scale, 1.0)
    mean_error = np.abs((np.average(values, axis=0, weights=weights) - mean) / scale).max()
    covariance_error = np.abs((np.cov(values.T, aweights=weights) - covariance) / np.outer(scale, scale)).max()
    return f"{mean_error:8.3f} {covariance_error:8.3f}"


def main() -> int:
    """Print the table."""
    process = Gaussian(schedules.geometric(_T, beta_1=1e-4))
    full = optimal.normal(process, jnp.asarray(_MEAN, jnp.float32), jnp.asarray(_COVARIANCE, jnp.float32))

    def independent(x_t: Array, t: Array) -> Normal:
        p = full.denoised(x_t, t)
        return Normal(p.mean, p.variance)

    models = [forward_edge(model) for model in (Model(process, independent), full)]
    print(f"T = {_T}, {_NUM} draws; error of the mean, of the covariance" + " " * 10 + "diagonal" + " " * 13 + "full")
    for name, (y, variance) in _EVIDENCE.items():
        mean, covariance, log_p = _closed_form(y, variance)
        r = Normal(jnp.asarray(y[None], jnp.float32), jnp.asarray(variance[None], jnp.float32))
        print(f"{name}: log p(y) {log_p:.3f}")
        hows: tuple[guidance.How, ...] = ("constant", "annealed", "renoised", "denoised", "guided", "matched")
        for how in hows:
            cells = []
            for model in models:
                chain = guidance.condition(model, r, how)
                draw = jax.jit(lambda key, chain=chain: sampling.sample(key, chain, _NUM, (4,)))
                cells.append(_errors(draw(jax.random.key(0)), mean, covariance))
            print(f"  {how:44}" + "     ".join(cells), flush=True)
        for how in ("denoised", "guided", "matched"):
            cells = []
            for model in models:
                found = jax.jit(lambda key, model=model, how=how, r=r: smc.sample(key, model, r, how, _NUM))(
                    jax.random.key(1)
                )
                weights = np.exp(np.asarray(found.log_weights[0], np.float64))
                cells.append(_errors(found.x[0], mean, covariance, weights))
                cells[-1] += f" ({float(found.effective_size.min()) / _NUM:.2f}, {float(found.log_evidence[0]):.3f})"
            print(f"  {'particles, ' + how + ' (least ESS / N, log p(y))':44}" + "  ".join(cells), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
