"""Programs of the public functions call no LAPACK and no FFT inside loops, where they deadlock on a CPU.

jaxlib's kernels of batched LAPACK and of FFTs hand work to XLA's thread pool and wait for it; in a loop that runs in
the same pool all threads may wait for ever. Programs are walked as traced: nothing runs, nothing is compiled. Those of
every function are walked in `test_modes`; here are matrices of more dimensions, which are not unrolled.
"""

import jax
import jax.numpy as jnp
import pytest

from dpm_jax import Gaussian, Normal, bound, forward_edge, likelihood, optimal, schedules, smc
from tests.programs import library_calls_in_loops

KEY = jax.random.key(0)


def refused(function, *args):
    return library_calls_in_loops(jax.make_jaxpr(function)(*args).jaxpr)


@pytest.mark.parametrize(
    "call",
    [
        lambda a: jnp.linalg.solve(a, a),
        jnp.linalg.cholesky,
        jnp.linalg.svd,
        lambda a: jnp.fft.fft(a).real,
    ],
)
def test_the_walk_finds_them(call):
    a = jnp.eye(3)[None]
    assert not refused(call, a)
    assert refused(jax.jit(lambda a: jax.lax.map(call, a)), a)
    assert refused(lambda a: jax.lax.scan(lambda c, _: (jax.checkpoint(jax.jit(call))(a), None), call(a), None, 2), a)


DIM = 9
MODEL = forward_edge(optimal.normal(Gaussian(schedules.geometric(6)), jnp.zeros(DIM), jnp.eye(DIM)))
SEEN = Normal(jnp.zeros((1, DIM)), jnp.full((1, DIM), 0.5))


@pytest.mark.parametrize(
    "call",
    [
        lambda key: jax.grad(lambda x: bound.evaluate(key, MODEL, x).k.sum())(jnp.zeros((2, DIM))),
        lambda key: likelihood.sandwich(key, MODEL, 3, (DIM,), 4),
        lambda key: smc.sample(key, MODEL, SEEN, "denoised", 4),
    ],
    ids=["bound and its gradient", "likelihood", "smc"],
)
def test_no_library_call_in_a_loop(call):
    assert not refused(call, KEY)
