"""Programs of the public functions call no LAPACK and no FFT inside loops, where they deadlock on a CPU.

jaxlib's kernels of batched LAPACK and of FFTs hand work to XLA's thread pool and wait for it; in a loop that runs in
the same pool all threads may wait for ever. Programs are walked as traced: nothing runs, nothing is compiled.
"""

import jax
import jax.numpy as jnp
import pytest

from dpm_jax import (
    binomial,
    bound,
    conditional,
    ddim,
    entropy,
    gaussian,
    likelihood,
    optimal,
    particles,
    posterior,
    predictions,
    respacing,
    sampling,
    schedules,
)
from dpm_jax.normal import Normal
from tests.every_function import CALLS, called
from tests.programs import equations

# What jax lowers to LAPACK or to FFTs on a CPU.
LIBRARY = {
    *("cholesky", "cholesky_update", "eig", "eigh", "fft", "geqp3", "geqrf", "hessenberg", "householder_product", "lu"),
    *("lu_pivots_to_permutation", "ormqr", "qr", "schur", "svd", "symmetric_product", "sytrf", "triangular_solve"),
    *("tridiagonal", "tridiagonal_solve"),
}


def library_calls_in_loops(jaxpr):
    return [e.primitive.name for e, in_loop in equations(jaxpr) if in_loop and e.primitive.name in LIBRARY]


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


T, KEY = 6, jax.random.key(0)
SCHEDULE = schedules.geometric(T)
X = jnp.zeros((4, 2))
LAW = Normal(jnp.zeros((1, 2)), jnp.array([[0.5, jnp.inf]]))
LINEAR = posterior.Linear(lambda x: x[:, :1] + x[:, 1:], jnp.zeros((1, 1)), 0.1)


def diagonal(x, t):
    return predictions.normal_reverse(SCHEDULE, x, t, jnp.concatenate([x, 0 * x], axis=-1))


def full(dim):
    return gaussian.forward_edge(SCHEDULE, optimal.normal(SCHEDULE, jnp.zeros(dim), jnp.eye(dim)))


def points(x, t):
    edge = optimal.finite_points(SCHEDULE, jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.log(jnp.array([0.5, 0.5])))
    return gaussian.forward_edge(SCHEDULE, edge)(x, t)


def bits(x, t):
    values = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    return optimal.finite_bits(SCHEDULE, values, jnp.log(jnp.array([0.5, 0.5])))(x, t)


def smc(how, r, model=diagonal):
    def sample(key):
        guide = posterior.guide(gaussian, SCHEDULE, model, r, how, points=8)
        found = particles.sample(key, gaussian, guide, r, 1, 4, (2,), T)
        return particles.draw(key, found, 3)

    return sample


def respaced(key):
    table = respacing.costs(key, gaussian, SCHEDULE, full(2), X)
    model = respacing.respaced(gaussian, SCHEDULE, full(2), respacing.uniform(T, 3))
    return table, sampling.ancestral(key, gaussian, ddim.ddim(*model, 0.5), 4, (2,), 3)


PROGRAMS = {
    **{
        f"particles, {how}, {kind}": smc(how, r)
        for kind, r, hows in (
            ("law", LAW, ("constant", "annealed", "denoised", "guided", "matched")),
            ("function", lambda x: x[:, 0], ("constant", "annealed", "guided")),
            ("linear", LINEAR, ("matched",)),
        )
        for how in hows
    },
    **{f"particles, full covariance, {how}": smc(how, LAW, full(2)) for how in ("denoised", "guided", "matched")},
    **{
        f"{name} covariance of {dim}: {what}": call
        for name, model, dim in (("full", full(2), 2), ("full", full(9), 9), ("points", points, 2))
        for what, call in {
            "ancestral": lambda key, model=model, dim=dim: sampling.ancestral(
                key, gaussian, model, 4, (dim,), T, chunk_size=2
            ),
            "bound and its gradient": lambda key, model=model, dim=dim: jax.grad(
                lambda x: bound.evaluate(key, gaussian, SCHEDULE, model, x).k.sum()
            )(jnp.zeros((2, dim))),
            "likelihood": lambda key, model=model, dim=dim: likelihood.sandwich(
                key, gaussian, SCHEDULE, model, 3, (dim,), 4
            ),
        }.items()
    },
    "with_jumps": lambda key: sampling.with_jumps(
        *(key, gaussian, SCHEDULE, posterior.condition(gaussian, SCHEDULE, full(2), LAW, "renoised"), 4, (2,)),
        jump_length=2,
        num_repeats=2,
    ),
    "trajectory": lambda key: sampling.ancestral_trajectory(key, gaussian, full(2), 4, (2,), T),
    "entropy": lambda key: entropy.model_steps(key, gaussian, SCHEDULE, full(2), X),
    "conditional": lambda key: conditional.log_conditional(
        *(key, gaussian, SCHEDULE, diagonal, X, jnp.array([True, False])), num_trajectories=3, num_particles=4
    ),
    "bits": lambda key: conditional.log_conditional(
        *(key, binomial, SCHEDULE, bits, X, jnp.array([True, False])), num_trajectories=3, num_particles=4
    ),
    "respacing": respaced,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_library_call_in_a_loop(name):
    assert not refused(PROGRAMS[name], KEY)


@pytest.mark.parametrize("name", CALLS)
def test_no_library_call_in_a_loop_of_any_function(name):
    run, x_0 = called(name)
    assert not refused(run, KEY, x_0)
