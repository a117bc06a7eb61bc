"""A process of your own in one file: tokens are masked one after another, an absorbing chain (Austin et al. 2021).

    q(x_t = x_{t-1}) = 1 - beta_t, else the mask, which stays        forward
    q(x_t = x_0)     = alpha_bar_t, else the mask                    marginal

States are integers, noise is no number added to them, and the chain never leaves its prior: all masks. Nothing in
the package knows about it: `train_masked.py` trains, bounds, samples, respaces and conditions it.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from dpm_jax import Schedule
from dpm_jax.numerics.shapes import at

NUM_TOKENS, MASK = 4, 4


@partial(jax.tree_util.register_dataclass, data_fields=("log_p",), meta_fields=())
@dataclasses.dataclass(frozen=True)
class Categorical:
    """Independent tokens. log_p: [B, length, NUM_TOKENS + 1] log-probabilities, those of the mask last."""

    log_p: Array

    batch_shape = property(lambda self: self.log_p.shape[:-2])
    event_shape = property(lambda self: self.log_p.shape[-2:-1])
    mean = property(lambda self: jnp.exp(self.log_p) @ jnp.arange(NUM_TOKENS + 1.0))
    variance = property(lambda self: jnp.exp(self.log_p) @ jnp.arange(NUM_TOKENS + 1.0) ** 2 - self.mean**2)

    @classmethod
    def known(cls, x: Array, observed: Array) -> "Categorical":
        """Return the evidence that tokens of x are known."""
        return cls(jnp.where(observed[..., None], _log_one_hot(x), 0.0))

    def sample(self, key: Array) -> Array:
        return jax.random.categorical(key, self.log_p)

    def log_prob(self, x: Array) -> Array:
        return jnp.take_along_axis(self.log_p, jnp.asarray(x)[..., None], -1)[..., 0].sum(-1)

    def entropy(self) -> Array:
        return -jnp.where(self.log_p > -jnp.inf, jnp.exp(self.log_p) * self.log_p, 0.0).sum((-2, -1))

    def kl(self, other: "Categorical") -> Array:
        possible = self.log_p > -jnp.inf
        difference = jnp.where(possible, self.log_p, 0.0) - jnp.where(possible, other.log_p, 0.0)
        return (jnp.where(possible, jnp.exp(self.log_p), 0.0) * difference).sum((-2, -1))

    def product(self, evidence: "Categorical") -> tuple["Categorical", Array]:
        both = self.log_p + evidence.log_p
        log_z = jax.nn.logsumexp(both, -1, keepdims=True)
        return Categorical(both - log_z), log_z[..., 0].sum(-1)


def _log_one_hot(x: Array) -> Array:
    return jnp.where(jax.nn.one_hot(x, NUM_TOKENS + 1) > 0, 0.0, -jnp.inf)


@partial(jax.tree_util.register_dataclass, data_fields=("schedule",), meta_fields=())
@dataclasses.dataclass(frozen=True)
class Masking:
    """The process: x is int32 [B, length], t int32 [B]."""

    schedule: Schedule

    num_timesteps = property(lambda self: self.schedule.num_timesteps)

    def prior(self, shape: tuple[int, ...]) -> Categorical:
        return Categorical(_log_one_hot(jnp.full(shape, MASK)))

    def forward(self, x_prev: Array, t: Array) -> Categorical:
        return self._kept(_log_one_hot(x_prev), at(self.schedule.beta, t, x_prev))

    def marginal(self, x_0: Array, t: Array) -> Categorical:
        return self._kept(_log_one_hot(x_0), at(self.schedule.sigma2, t, jnp.asarray(x_0)))

    def posterior(self, x_0: Array | Categorical, x_t: Array, t: Array) -> Categorical:
        """Return the state one step before: a mask stays a mask or becomes x_0, and any other value is x_0."""
        law = x_0.log_p if isinstance(x_0, Categorical) else _log_one_hot(x_0)
        masked = at(self.schedule.sigma2, t - 1, x_t) / at(self.schedule.sigma2, t, x_t)
        return Categorical(jnp.where((x_t == MASK)[..., None], self._kept(law, masked).log_p, _log_one_hot(x_t)))

    def _kept(self, log_p: Array, masked: Array) -> Categorical:
        """Return the law log_p, or the mask with probability `masked`."""
        mask = _log_one_hot(jnp.asarray(MASK))
        return Categorical(jnp.logaddexp(jnp.log1p(-masked)[..., None] + log_p, jnp.log(masked)[..., None] + mask))
