"""How much entropy a reverse step has, and how much the whole chain produces (sections 2.4 and 2.6).

The forward chain alone bounds the entropy of its reversal, step by step (section 2.6, appendix A):

    H_q(X_t | X_{t-1}) + H_q(X_{t-1} | X_0) - H_q(X_t | X_0)  <=  H_q(X_{t-1} | X_t)  <=  H_q(X_t | X_{t-1})

- lower: it is H_q(X_{t-1} | X_t, X_0), and knowing x_0 as well cannot raise an entropy. No condition.
- upper: H_q(X_{t-1} | X_t) = H_q(X_t | X_{t-1}) + H_q(X_{t-1}) - H_q(X_t), so it holds where noise raises the entropy
  of the whole, H_q(X_t) >= H_q(X_{t-1}). For bits it always does, for mixing with fair coins is doubly stochastic. For
  densities it does where the mean square deviation is at most one a dimension, as that of all standardised data is:
  the entropy grows at half of J - d, and by Cramer and Rao the Fisher information J is at least d^2 / tr Cov. It
  fails, for one, for N(0, 4), whose entropy falls on its way to N(0, 1). The paper states no such condition. Data
  of unit variance that are near normal come close to equality.

`model_steps` is to be held against them: the mean entropy of p(x_{t-1} | x_t). Where it lies above the true
H_q(X_{t-1} | X_t) the step is wider than it need be; a moment-matched normal step always is, if only a little.

Entropy production. The chain as a whole, forward and model reverse, is compared by

    KL(q(x_{0:T}) || p(x_{0:T})) = E log q(x_0) - E log w  = limit - K  >= 0,

w the weight of one trajectory of `likelihood`: the entropy that is produced, in the sense of Jarzynski's relation and
the Crooks fluctuation theorem, when the one chain is taken for the reverse of the other. It is zero for a quasi-static
chain whose every reverse step is exact (section 2.4), where all trajectories have the same weight, and it is what is
lost of the likelihood. It is known wherever the entropy of the data is, and needs no separate function: it is the
mean of log q(x_0) - `likelihood.lower`(log_weights, 1), or, without the noise of the weights, the gap of `bound`.

Nats an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.model import Model
from dpm_jax.processes import Process
from dpm_jax.schedules import Schedule

__all__ = ["MAX_BITS", "Bounds", "enumerated_bits", "model_steps", "step_bounds"]

# Of the strings that `enumerated_bits` goes through, all 2^d of them.
MAX_BITS = 20
_CHUNK = 2**16


class Bounds(NamedTuple):
    """Bounds on H_q(X_{t-1} | X_t), index t; nats an example.

    Attributes:
      lower: [T + 1]. At t = 1, where x_0 is known, 0 for bits and -inf for densities. NaN at 0: no step ends there.
      upper: [T + 1]. NaN at 0.
    """

    lower: Array
    upper: Array


def step_bounds(process: Process, shape: tuple[int, ...]) -> Bounds:
    """Return bounds on the entropy of each reverse step, from the forward chain alone (section 2.6).

    The three entropies must be the same for every x, as they are in the processes here. Those of densities are
    logarithms, so that their sum is as exact as they are, however fine the step.

    Args:
      process: the forward chain.
      shape: of one example.
    """
    x = jnp.zeros((1, *shape))

    def at_time(t: Array) -> tuple[Array, Array]:
        times = t[None]
        step = process.forward(x, times).entropy()[0]
        before = process.marginal(x, times - 1).entropy()[0]
        return step + before - process.marginal(x, times).entropy()[0], step

    lower, upper = jax.lax.map(at_time, jnp.arange(1, process.num_timesteps + 1))
    undefined = jnp.full(1, jnp.nan)
    return Bounds(jnp.concatenate([undefined, lower]), jnp.concatenate([undefined, upper]))


def model_steps(key: Array, model: Model, x_0: Array) -> Array:
    """Return the mean entropy of p(x_{t-1} | x_t) over x_t ~ q(x_t | x_0), a scan over t.

    The entropy of q(x_{t-1} | x_t, x_0), whose mean is the lower bound above, is a control variate: for bits, both
    are large at the same rare x_t, where a bit has just changed.

    Args:
      key: PRNG key.
      model: a process and a denoiser.
      x_0: [B, ...] data.

    Returns:
      [T + 1] nats an example; NaN at 0.

    Raises:
      ValueError: if x_0 is no data of this process, or if the model's laws have another shape.
    """
    x_0, process = jnp.asarray(x_0), model.process
    bounds = step_bounds(process, x_0.shape[1:])

    def step(_: None, t: Array) -> tuple[None, Array]:
        times = jnp.full(x_0.shape[0], t, jnp.int32)
        x_t = process.marginal(x_0, times).sample(jax.random.fold_in(key, t))
        of_model = jnp.mean(model.reverse(x_t, times).entropy())
        posterior = jnp.mean(process.posterior(x_0, x_t, times).entropy())
        # At t = 1 the posterior is a point, and its entropy is not finite for densities.
        return None, jnp.where(t == 1, of_model, of_model - posterior + bounds.lower[t])

    _, steps = jax.lax.scan(step, None, jnp.arange(1, process.num_timesteps + 1))
    return jnp.concatenate([jnp.full(1, jnp.nan), steps])


def enumerated_bits(schedule: Schedule, support: np.ndarray | Array, times: Sequence[int]) -> np.ndarray:
    """H_q(X_t) of the forward chain of bits, exactly: all 2^d strings, in float64 on the host.

    From equally likely strings; with it H_q(X_{t-1} | X_t) = H_q(X_t | X_{t-1}) + H_q(X_{t-1}) - H_q(X_t).

    Args:
      schedule: of T steps.
      support: [n, d] the strings, of 0 and 1, d at most `MAX_BITS`.
      times: of t, in 0..T.

    Returns:
      [len(times)] nats.

    Raises:
      ValueError: if d is out of range.
    """
    strings = np.asarray(support, np.int64)
    num, dim = strings.shape
    if not 1 <= dim <= MAX_BITS:
        raise ValueError(f"support: strings of 1 to {MAX_BITS} bits can be enumerated, got {dim}")
    packed = strings @ (1 << np.arange(dim))
    flip = 0.5 * np.asarray(schedule.sigma2, np.float64)[list(times)][:, None]
    distance = np.arange(dim + 1)
    # q(x_t | x_0) / n by the number of bits in which they differ, a row a time.
    by_distance = flip**distance * (1 - flip) ** (dim - distance) / num
    total = np.zeros(len(flip))
    for first in range(0, 2**dim, _CHUNK):
        some = np.arange(first, min(first + _CHUNK, 2**dim))
        differing = np.bitwise_count(some[:, None] ^ packed)
        for i, probability in enumerate(by_distance):
            q = probability[differing].sum(1)
            total[i] -= (q * np.log(np.maximum(q, np.finfo(float).tiny))).sum()
    return total
