"""Train a model of strings on the process of `masked.py`, and see its bound beside the strings' known law.

Run `python examples/train_masked.py` from the root of the repository: half a minute on two CPU cores.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array
from masked import MASK, NUM_TOKENS, Categorical, Masking

from dpm_jax import Model, bound, respace, sample, schedules, smc
from dpm_jax.respacing import uniform

LENGTH = 8


class Denoiser(nn.Module):
    """Logits of each token given the others; the mask is none of them."""

    @nn.compact
    def __call__(self, x_t: Array, t: Array) -> Array:
        h = jax.nn.one_hot(x_t, NUM_TOKENS + 1).reshape(x_t.shape[0], -1)
        for _ in range(2):
            h = nn.silu(nn.Dense(128)(h))
        log_p = jax.nn.log_softmax(nn.Dense(LENGTH * NUM_TOKENS)(h).reshape(*x_t.shape, NUM_TOKENS))
        return jnp.pad(log_p, ((0, 0), (0, 0), (0, 1)), constant_values=-jnp.inf)


def strings(key: Array, num: int) -> Array:
    """Draw strings in which a token is the one before with probability 0.7, else one of the others."""
    first_key, stay_key, other_key = jax.random.split(key, 3)
    stay = jax.random.bernoulli(stay_key, 0.7, (num, LENGTH - 1))
    step = jnp.where(stay, 0, jax.random.randint(other_key, (num, LENGTH - 1), 1, NUM_TOKENS))
    first = jax.random.randint(first_key, (num, 1), 0, NUM_TOKENS)
    return jnp.cumsum(jnp.concatenate([first, step], 1), 1) % NUM_TOKENS


def log_prob(x: Array) -> Array:
    """Return their log-probability, [B] nats."""
    stays = (x[:, 1:] == x[:, :-1]).sum(1)
    return -jnp.log(NUM_TOKENS) + stays * jnp.log(0.7) + (LENGTH - 1 - stays) * jnp.log(0.1)


def train(process: Masking, steps: int) -> Model:
    """Train a denoiser on fresh strings, all steps as one scan."""
    net, key, optimizer = Denoiser(), jax.random.key(0), optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    params = net.init(key, strings(key, 2), jnp.ones(2, jnp.int32))

    def model(params: Any) -> Model:
        return Model(process, lambda x_t, t: Categorical(net.apply(params, x_t, t)))

    def step(state: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], None]:
        gradient = jax.grad(lambda p: -bound.estimate(key, model(p), strings(key, 256), edge="decoder").mean)(state[0])
        updates, memory = optimizer.update(gradient, state[1])
        return (optax.apply_updates(state[0], updates), memory), None

    (params, _), _ = jax.jit(partial(jax.lax.scan, step))(
        (params, optimizer.init(params)), jax.random.split(key, steps)
    )
    return model(params)


def main(steps: int = 2000) -> None:
    """Train, bound, sample, respace, condition."""
    trained, x, key = train(Masking(schedules.erase(64)), steps), strings(jax.random.key(1), 2000), jax.random.key(2)
    for name, model in (("64 steps", trained), ("8 steps", respace(trained, uniform(64, 8), edge="decoder"))):
        k = jax.jit(partial(bound.evaluate, model=model, edge="decoder"))(key, x_0=x).k
        gap = bound.mean_and_stderr(log_prob(x) - k)
        print(f"{name}: K {k.mean():.3f} nats, limit {log_prob(x).mean():.3f}, gap {gap.mean:.3f} +- {gap.stderr:.3f}")
    print("samples", sample(key, trained, 4, (LENGTH,)).tolist())
    observed = jnp.arange(LENGTH) % 2 == 0
    found = smc.sample(key, trained, Categorical.known(x[:1], observed[None]), "denoised", 256)
    print(
        "given  ",
        jnp.where(observed, x[0], MASK).tolist(),
        f"log p {found.log_evidence[0]:.2f} +- {found.stderr[0]:.2f}",
    )
    print("filled ", smc.draw(key, found, 3)[0].tolist())


if __name__ == "__main__":
    main()
