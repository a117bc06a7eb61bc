"""Checks that every distribution and every process must pass, whatever its class.

    contract.check_distribution(law, other, contract.reals)
    contract.check_process(process, x_0, start, contract.finite((0.0, 1.0)))

Sums over a support stand for all expectations: every value there is (`finite`), or a grid about a law that is smooth
on its scale (`reals`). One program a check is compiled. All that it found is returned, for comparison with formulas.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import logsumexp

__all__ = ["LawFacts", "ProcessFacts", "Support", "check_distribution", "check_process", "finite", "reals"]

# Law -> x [N, *batch, *event] and the log of the volume that each stands for, [*batch].
Support = Callable[[Any], tuple[Array, Array]]

# Standard errors that a mean of draws may be off; of a thousand means one would be by 3.3.
_ERRORS = 5.0


def reals(law: Any, num: int = 41, reach: float = 8.0) -> tuple[Array, Array]:
    """Return a grid of num^d points, `reach` standard deviations to either side of the mean in each coordinate."""
    scale = jnp.sqrt(law.variance)
    dim = int(np.prod(law.event_shape))
    z = np.linspace(-reach, reach, num, dtype=np.float32)
    grid = np.stack(np.meshgrid(*[z] * dim, indexing="ij"), -1).reshape(-1, *law.event_shape)
    grid = grid.reshape(len(grid), *(1,) * len(law.batch_shape), *law.event_shape)
    log_volume = jnp.log(scale).reshape(*law.batch_shape, dim).sum(-1) + dim * np.log(z[1] - z[0])
    return law.mean + scale * grid, log_volume


def finite(values: Any) -> Support:
    """Return the support of laws whose coordinates have one of these values each."""

    def support(law: Any) -> tuple[Array, Array]:
        dim = int(np.prod(law.event_shape))
        every = jnp.asarray(list(itertools.product(np.asarray(values).tolist(), repeat=dim)), jnp.asarray(values).dtype)
        every = every.reshape(len(every), *(1,) * len(law.batch_shape), *law.event_shape)
        shape = (len(every), *law.batch_shape, *law.event_shape)
        return jnp.broadcast_to(every, shape), jnp.zeros(law.batch_shape)

    return support


def _host(facts: Any) -> Any:
    """Floats as float64 NumPy arrays."""

    def one(value: Array) -> np.ndarray:
        found = np.asarray(value)
        return found.astype(np.float64) if found.dtype == np.float32 else found

    return jax.tree.map(one, facts)


def _log_prob(law: Any, x: Array) -> Array:
    """log p of x [N, *batch, *event], [N, *batch]."""
    return jax.vmap(law.log_prob)(x)


def _event(values: Any, like: Any) -> Any:
    """[N, *batch] so that it broadcasts against [N, *batch, *event]."""
    return values.reshape(*values.shape, *(1,) * (like.ndim - values.ndim))


def _finite_gradient(gradient: Any) -> Array:
    return jnp.asarray([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)]).all()


def _close(found: Any, expected: Any, what: str, rtol: float = 0.0, atol: float = 0.0) -> None:
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=what)


def _within_errors(draws: np.ndarray, expected: np.ndarray, what: str) -> None:
    """The mean of draws [n, ...] is the expected one, by its own standard error."""
    stderr = draws.std(0, ddof=1) / len(draws) ** 0.5
    off = np.abs(draws.mean(0) - expected)
    assert (off <= _ERRORS * stderr + 1e-5 * (1 + np.abs(expected))).all(), f"{what}: off by {(off / stderr).max():.1f}"


# --- Distributions ---


class LawFacts(NamedTuple):
    """Numbers that `check_distribution` found, float64; p is the law, q the other, x [N, *batch, *event] p's values."""

    x: np.ndarray
    log_volume: np.ndarray
    log_p: np.ndarray
    log_q: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    entropy: np.ndarray
    kl: np.ndarray
    kl_to_itself: np.ndarray
    draws: np.ndarray
    log_p_of_draws: np.ndarray
    log_q_of_draws: np.ndarray
    finite_gradient: np.ndarray
    example_by_example: Any
    product: Any
    tilt: Any


def _law_facts(p: Any, q: Any, evidence: Any, slope: Array, key: Array, support: Support, num_samples: int) -> LawFacts:
    x, log_volume = support(p)
    draws = jax.vmap(p.sample)(jax.random.split(key, num_samples))

    def numbers(p: Any, q: Any, x: Array) -> dict[str, Array]:
        return {"log_prob": p.log_prob(x), "entropy": p.entropy(), "kl": p.kl(q), "mean": p.mean}

    gradient = jax.grad(lambda laws: sum(value.sum() for value in numbers(*laws, draws[0]).values()), allow_int=True)(
        (p, q)
    )
    example_by_example = None
    if p.batch_shape:
        together = numbers(p, q, draws[0])
        alone = jax.vmap(numbers)(p, q, draws[0])
        example_by_example = together, alone
    product = tilt = None
    if evidence is not None:
        once, log_z = p.product(evidence)
        # As the carry of a scan a law must keep its structure, shapes and types.
        again, log_zs = jax.lax.scan(lambda law, _: law.product(evidence), p, length=2)
        product = _log_prob(once, x), log_z, _log_prob(evidence, x), log_zs, _log_prob(again, x), again.sample(key)
    if slope is not None:

        def log_r(x: Array) -> Array:
            return (slope * x).reshape(*p.batch_shape, -1).sum(-1)

        tilt = _log_prob(p.tilt(slope), x), _log_prob(p.tilt(log_r), x), jax.vmap(log_r)(x)
    return LawFacts(
        x,
        log_volume,
        _log_prob(p, x),
        _log_prob(q, x),
        p.mean,
        p.variance,
        p.entropy(),
        p.kl(q),
        p.kl(p),
        draws,
        _log_prob(p, draws),
        _log_prob(q, draws),
        _finite_gradient(gradient),
        example_by_example,
        product,
        tilt,
    )


def check_distribution(
    law: Any,
    other: Any,
    support: Support,
    *,
    evidence: Any = None,
    slope: Any = None,
    num_samples: int = 20_000,
    atol: float = 2e-4,
) -> tuple[LawFacts, LawFacts]:
    """Check two laws of one type and shape, each against the other.

    Args:
      law: of a small event, nothing in it certain.
      other: another law of the same shape.
      support: of the laws, see above.
      evidence: r, if they have a `product`; its `log_prob` must be log r.
      slope: of a linear log r, if they have a `tilt`; of the law's shape.
      num_samples: draws behind each mean that has an error bar.
      atol: of sums over the support, in nats and in units of x.

    Returns:
      What was found of (law, other), and of (other, law).

    Raises:
      AssertionError: naming what does not hold.
    """
    _check_pytree(law)
    traces = []

    @jax.jit
    def run(p: Any, q: Any, key: Array) -> LawFacts:
        traces.append(None)
        return _law_facts(p, q, evidence, slope, key, support, num_samples)

    found = tuple(_host(run(p, q, jax.random.key(seed))) for seed, (p, q) in enumerate(((law, other), (other, law))))
    assert len(traces) == 1, "a law of the same shape compiled the program once more"
    for p, facts in zip((law, other), found, strict=True):
        _check_law_facts(p, facts, atol)
    return found


def _check_pytree(law: Any) -> None:
    leaves, structure = jax.tree.flatten(law)
    again = jax.tree.unflatten(structure, leaves)
    assert type(again) is type(law)
    assert (again.batch_shape, again.event_shape) == (law.batch_shape, law.event_shape)
    assert jax.tree.structure(again) == structure
    for leaf in leaves:
        assert leaf.shape[: len(law.batch_shape)] == law.batch_shape, f"leaf of shape {leaf.shape}: batch axes go first"


def _check_law_facts(law: Any, facts: LawFacts, atol: float) -> None:
    batch, shape = law.batch_shape, (*law.batch_shape, *law.event_shape)
    for name in ("mean", "variance"):
        assert getattr(law, name).shape == shape, name
        assert getattr(law, name).dtype == jnp.float32, name
    for name in ("entropy", "kl"):
        assert getattr(facts, name).shape == batch, name
    assert facts.draws.shape[1:] == shape
    assert facts.log_p_of_draws.shape == (len(facts.draws), *batch)
    # Sums over the support.
    weight = np.exp(facts.log_p + facts.log_volume)
    _close(weight.sum(0), 1, "log_prob is not normalised", atol=atol)
    each = _event(weight, facts.x)
    mean = (each * facts.x).sum(0)
    size = 1 + np.abs(facts.mean).max() + facts.variance.max()
    _close(facts.mean, mean, "mean", atol=atol * size)
    _close(facts.variance, (each * (facts.x - mean) ** 2).sum(0), "variance", rtol=atol, atol=atol * size)
    with np.errstate(invalid="ignore"):
        entropy = -np.where(weight > 0, weight * facts.log_p, 0.0).sum(0)
        kl = np.where(weight > 0, weight * (facts.log_p - facts.log_q), 0.0).sum(0)
    _close(facts.entropy, entropy, "entropy", rtol=atol, atol=atol)
    _close(facts.kl, kl, "kl", rtol=atol, atol=atol)
    assert (facts.kl >= 0).all(), "kl is negative"
    _close(facts.kl_to_itself, 0, "kl of a law to itself", atol=1e-6)
    # Draws.
    _within_errors(facts.draws, facts.mean, "mean of draws")
    _within_errors((facts.draws - facts.mean) ** 2, facts.variance, "variance of draws")
    _within_errors(-facts.log_p_of_draws, facts.entropy, "entropy by draws")
    _within_errors(facts.log_p_of_draws - facts.log_q_of_draws, facts.kl, "kl by draws")
    # Transformations.
    assert facts.finite_gradient, "a gradient is not finite"
    if facts.example_by_example is not None:
        together, alone = facts.example_by_example
        for name, value in together.items():
            _close(alone[name], value, f"{name} in vmap", rtol=1e-5, atol=1e-6)
    if facts.product is not None:
        log_product, log_z, log_r, log_zs, log_again, draw = facts.product
        assert draw.shape == shape
        joint = facts.log_p + log_r
        _close(log_z, logsumexp(joint + facts.log_volume, axis=0), "log Z of a product", rtol=atol, atol=atol)
        # Where both are tiny, float32 has few digits of the difference.
        near = joint - log_z > -30
        _close(np.where(near, log_product - joint + log_z, 0), 0, "product", atol=10 * atol)
        twice = facts.log_p + 2 * log_r
        expected = logsumexp(twice + facts.log_volume, axis=0)
        _close(log_zs.sum(0), expected, "log Z of two products", rtol=atol, atol=2 * atol)
        near = twice - expected > -30
        _close(np.where(near, log_again - twice + expected, 0), 0, "two products", atol=20 * atol)
    if facts.tilt is not None:
        by_slope, by_function, log_r = facts.tilt
        _close(by_function, by_slope, "tilt by a function", rtol=1e-4, atol=1e-3)
        joint = facts.log_p + log_r
        log_z = logsumexp(joint + facts.log_volume, axis=0)
        near = joint - log_z > -30
        _close(np.where(near, by_slope - joint + log_z, 0), 0, "tilt", atol=10 * atol)


# --- Processes ---


class ProcessFacts(NamedTuple):
    """Numbers that `check_process` found, float64.

    Rows are examples and times; y [N, B, *event] is the support of the posterior, w [M, B, *event] that of the law m
    of x_0, and z [K, B, *event] are draws of the posterior over m.
    """

    t: np.ndarray
    x_0: np.ndarray
    x_t: np.ndarray
    y: np.ndarray
    log_volume: np.ndarray
    log_before: np.ndarray
    log_forward: np.ndarray
    log_marginal: np.ndarray
    log_posterior: np.ndarray
    posterior: Any
    at_zero: Any
    masses: Any
    prior_kl: np.ndarray
    log_start: np.ndarray
    parts: Any
    mixture: Any
    log_parts: np.ndarray
    log_mixture: np.ndarray
    alone: Any
    one_time: Any
    integers: Any
    finite_gradient: np.ndarray


def _mean_variance(law: Any) -> tuple[Array, Array]:
    return law.mean, law.variance


def _process_facts(
    process: Any, x_0: Array, m: Any, t: Array, key: Array, support: Support, starts: Support
) -> ProcessFacts:
    keys, last = jax.random.split(key, 4), process.num_timesteps
    marginal = process.marginal(x_0, t)
    x_t = marginal.sample(keys[0])
    posterior = process.posterior(x_0, x_t, t)
    y, log_volume = support(posterior)
    point = process.marginal(x_0, jnp.zeros_like(t))
    at_end = process.marginal(x_0, jnp.full_like(t, last))

    def mass(law: Any) -> Array:
        x, log_volume = support(law)
        return jnp.exp(_log_prob(law, x) + log_volume).sum(0)

    w, log_volume_of_start = starts(m)
    mixture = process.posterior(m, x_t, t)
    z = jax.vmap(mixture.sample)(jax.random.split(keys[1], 4))

    def part(w: Array) -> Any:
        law = process.posterior(w, x_t, t)
        return _mean_variance(law), _log_prob(law, z)

    parts, log_parts = jax.vmap(part)(w)

    def at_row(x_0: Array, m: Any, x_t: Array, y: Array, z: Array, t: Array) -> dict[str, Array]:
        return {
            "forward": process.forward(y, t).log_prob(x_t),
            "marginal": process.marginal(x_0, t).log_prob(x_t),
            "posterior": process.posterior(x_0, x_t, t).log_prob(y),
            "mixture": process.posterior(m, x_t, t).log_prob(z),
        }

    y_drawn = posterior.sample(keys[2])
    rows = x_0, m, x_t, y_drawn, z[0]
    alone = at_row(*rows, t), jax.vmap(at_row)(*rows, t)
    one_time = at_row(*rows, jnp.full_like(t, last)), at_row(*rows, jnp.full(1, last, t.dtype))

    def laws(x_0: Array, x_t: Array) -> Any:
        made = process.marginal(x_0, t), process.forward(x_0, t), process.posterior(x_0, x_t, t)
        return [law.mean for law in made] + [law.variance for law in made]

    whole = jnp.round(x_0), jnp.round(x_t)
    integers = laws(*whole), laws(*(x.astype(jnp.int32) for x in whole))

    def loss(x_0: Array, m: Any, x_t: Array) -> Array:
        p = process.posterior(m, x_t, t)
        terms = p.log_prob(z[0]) + process.marginal(x_0, t).log_prob(jax.lax.stop_gradient(x_t))
        if last > 1:
            # The posterior at t = 1 is a point.
            later = jnp.maximum(t, 2)
            terms += process.posterior(x_0, x_t, later).kl(process.posterior(m, x_t, later))
        return terms.sum()

    # States of whole numbers have no gradient.
    of = (0, 1, 2) if jnp.issubdtype(x_t.dtype, jnp.floating) else ()
    gradient = jax.grad(loss, of)(x_0, m, x_t) if of else ()
    return ProcessFacts(
        t,
        x_0,
        x_t,
        y,
        log_volume,
        _log_prob(process.marginal(x_0, t - 1), y),
        jax.vmap(lambda y: process.forward(y, t).log_prob(x_t))(y),
        marginal.log_prob(x_t),
        _log_prob(posterior, y),
        (_mean_variance(posterior), y_drawn),
        (_mean_variance(point), point.sample(keys[3])),
        (mass(marginal), mass(process.forward(x_0, t))),
        at_end.kl(process.prior(x_0.shape)),
        _log_prob(m, w) + log_volume_of_start,
        parts,
        _mean_variance(mixture),
        log_parts,
        _log_prob(mixture, z),
        alone,
        one_time,
        integers,
        _finite_gradient(gradient),
    )


def check_process(
    process: Any,
    x_0: Array,
    start: Any,
    support: Support,
    *,
    starts: Support | None = None,
    twin: Any = None,
    prior_kl: float = 1e-2,
    atol: float = 2e-3,
    rounding: float = 0.0,
) -> ProcessFacts:
    """Check a process at t = 1, 2, in the middle, T - 1 and T.

    Args:
      process: of any T.
      x_0: [B, *event] of its data, the event small.
      start: a law of x_0, [B, *event], nothing in it certain.
      support: of its laws of x_t, see above.
      starts: of `start`, if it needs a finer one: as fine as the posterior of a point, seen as a function of x_0.
      twin: another process of this class and T, if it is a pytree: it must not compile the program once more.
      prior_kl: nats that q(x_T | x_0) may be away from the prior.
      atol: nats that float32 may cost a log-probability.
      rounding: by which points at t = 0, and posteriors at t = 1, may differ from x_0.

    Returns:
      What was found.

    Raises:
      AssertionError: naming what does not hold.
    """
    last = process.num_timesteps
    times = sorted({1, min(2, last), (last + 1) // 2, max(last - 1, 1), last})
    t = jnp.repeat(jnp.asarray(times, jnp.int32), len(x_0))
    repeat: Any = partial(jax.tree.map, lambda values: jnp.tile(values, (len(times), *(1,) * (values.ndim - 1))))
    traces = []

    def run(process: Any, x_0: Array, m: Any, t: Array, key: Array) -> ProcessFacts:
        traces.append(None)
        return _process_facts(process, x_0, m, t, key, support, starts or support)

    arguments = repeat(x_0), repeat(start), t, jax.random.key(0)
    if twin is None:
        facts = _host(jax.jit(partial(run, process))(*arguments))
    else:
        compiled = jax.jit(run)
        facts = _host(compiled(process, *arguments))
        compiled(twin, *arguments)
    assert len(traces) == 1, "a process of the same T compiled the program once more"
    _check_process_facts(facts, prior_kl, atol, rounding)
    return facts


def _check_process_facts(facts: ProcessFacts, prior_kl: float, atol: float, rounding: float) -> None:
    (mean, variance), draw = facts.at_zero
    for found in (mean, draw):
        np.testing.assert_allclose(found, facts.x_0, rtol=0, atol=rounding, err_msg="marginal at 0")
    np.testing.assert_array_equal(variance, 0, err_msg="marginal at 0")
    for name, mass in zip(("marginal", "forward"), facts.masses, strict=True):
        _close(mass, 1, f"{name} is not normalised", atol=2e-4)
    assert (facts.prior_kl >= 0).all()
    assert (facts.prior_kl <= prior_kl).all(), f"the marginal at T is {facts.prior_kl.max():g} nats from the prior"

    # Chapman and Kolmogorov, and Bayes. At t = 1 the posterior is the point x_0.
    (mean, variance), draw = facts.posterior
    first, later = facts.t == 1, facts.t > 1
    for found in (mean[first], draw[first]):
        np.testing.assert_allclose(found, facts.x_0[first], rtol=0, atol=rounding, err_msg="posterior at t = 1")
    np.testing.assert_array_equal(variance[first], 0, err_msg="posterior at t = 1")
    with np.errstate(invalid="ignore"):
        joint = facts.log_before + facts.log_forward
        total = logsumexp(joint + facts.log_volume, axis=0)
        _close(total[later], facts.log_marginal[later], "Chapman-Kolmogorov", atol=atol)
        bayes = joint - facts.log_marginal
        near = (bayes > facts.log_posterior.max(0) - 30) & later
        assert near.any() or not later.any()
        _close(np.where(near, facts.log_posterior, 0), np.where(near, bayes, 0), "Bayes", atol=atol)

    # The posterior over a law of x_0: its moments, and the log-probabilities of draws.
    weight = np.exp(facts.log_start)
    _close(weight.sum(0), 1, "the law of x_0 is not normalised on its support", atol=2e-4)
    weight = _event(weight, facts.parts[0])
    means, variances = facts.parts
    mean = (weight * means).sum(0)
    _close(facts.mixture[0], mean, "mean of the posterior over a law", atol=1e-3)
    variance = (weight * (variances + (means - mean) ** 2)).sum(0)
    _close(facts.mixture[1], variance, "variance of the posterior over a law", rtol=1e-3, atol=1e-5)
    with np.errstate(invalid="ignore"):
        log_mixture = logsumexp(facts.log_start[:, None] + facts.log_parts, axis=0)
    _close(facts.log_mixture[:, later], log_mixture[:, later], "posterior over a law", atol=2 * atol)

    # Transformations, and types.
    for name, (one, other) in {"in vmap": facts.alone, "at one time for all": facts.one_time}.items():
        for law, value in one.items():
            sure = later if law == "posterior" and name == "in vmap" else np.isfinite(value)
            _close(other[law][sure], value[sure], f"{law} {name}", rtol=1e-5, atol=1e-4)
    for one, other in zip(*facts.integers, strict=True):
        np.testing.assert_array_equal(one, other, err_msg="x of integer type")
    assert facts.finite_gradient, "a gradient is not finite"
