"""Draws of t: their range, their weights, and that they are unbiased for any function of t."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import timesteps

SAMPLERS = {
    "uniform": timesteps.uniform,
    "antithetic": timesteps.antithetic,
    "low_discrepancy": timesteps.low_discrepancy,
    "importance": None,
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("T", [2, 3, 1000])
def test_unbiased_for_any_function_of_t(name, T):
    sampler = SAMPLERS[name] or timesteps.importance(jnp.arange(T + 1) ** 0.5 + 0.1)
    values = jnp.sin(jnp.arange(T + 1.0)) + 2

    @jax.jit
    @jax.vmap
    def estimate(key):
        draw = sampler(key, 65, T)
        return jnp.mean(draw.weight * values[draw.t]), draw.t.min(), draw.t.max()

    mean, low, high = estimate(jax.random.split(jax.random.key(0), 3000))
    assert int(low.min()) == 2
    assert int(high.max()) == T
    exact = float(values[2:].sum())
    assert abs(float(mean.mean()) - exact) <= 4 * float(mean.std()) / np.sqrt(3000) + 1e-4 * exact


@pytest.mark.parametrize("name", ["uniform", "antithetic", "low_discrepancy", "emphasis"])
@pytest.mark.parametrize("num", [1, 2, 7])
def test_shapes_and_the_empty_sum(name, num):
    sampler = timesteps.emphasis(jnp.ones(2)) if name == "emphasis" else SAMPLERS[name]
    draw = sampler(jax.random.key(0), num, 1)
    assert draw.t.shape == draw.weight.shape == (num,)
    assert draw.t.dtype == jnp.int32
    np.testing.assert_array_equal(draw.weight, 0)
    assert int(draw.t.max()) <= 1


@pytest.mark.parametrize("T", [2, 3, 1000])
def test_real_times_are_unbiased_for_any_integral(T):
    """Test the even grid and that of unequal probabilities by an integral in closed form; all times are in [1, T]."""
    samplers = (timesteps.continuous, timesteps.importance(1 + (jnp.arange(T + 1) / T - 0.5) ** 2, real=True))

    @jax.jit
    @jax.vmap
    def estimate(key):
        draws = [sampler(key, 65, T) for sampler in samplers]
        found = jnp.stack([jnp.mean(draw.weight * (jnp.sin(draw.t) + 2)) for draw in draws])
        t = jnp.stack([draw.t for draw in draws])
        return found, t.min(1), t.max(1)

    mean, low, high = estimate(jax.random.split(jax.random.key(0), 3000))
    assert low.dtype == jnp.float32
    assert ((low >= 1) & (high <= T)).all()
    np.testing.assert_allclose(low.min(0), 1, atol=0.05)
    np.testing.assert_allclose(high.max(0), T, atol=0.05)
    exact = np.cos(1) - np.cos(T) + 2 * (T - 1)
    assert (np.abs(mean.mean(0) - exact) <= 4 * np.std(mean, 0) / np.sqrt(3000) + 1e-5 * exact).all()


def test_real_times_lie_within_the_steps_that_whole_ones_are():
    p = jnp.arange(31.0) ** 2 + 1
    whole, real = (timesteps.importance(p, real=real)(jax.random.key(2), 2000, 30) for real in (False, True))
    assert ((real.t >= whole.t - 1) & (real.t <= whole.t)).all()
    np.testing.assert_array_equal(real.weight, whole.weight)
    # They spread evenly over their steps.
    within = np.sort(np.asarray(real.t - whole.t + 1)[np.asarray(whole.t) == 30])
    assert len(within) > 100
    np.testing.assert_allclose(within, np.linspace(0, 1, len(within)), atol=2 / len(within))


def test_importance_wants_a_probability_for_each_t():
    with pytest.raises(ValueError, match=r"must have shape \(101,\), got \(30,\)"):
        timesteps.importance(jnp.ones(30))(jax.random.key(0), 4, 100)


@pytest.mark.parametrize("T", [2, 3, 1000])
def test_emphasis_weights_the_sum(T):
    weights = jnp.arange(T + 1) ** 0.5 + 0.1
    values = jnp.sin(jnp.arange(T + 1.0)) + 2

    @jax.jit
    @jax.vmap
    def estimate(key):
        draw = timesteps.emphasis(weights)(key, 65, T)
        return jnp.mean(draw.weight * values[draw.t]), draw.t.min(), draw.t.max()

    mean, low, high = estimate(jax.random.split(jax.random.key(0), 3000))
    assert int(low.min()) == 2
    assert int(high.max()) == T
    exact = (T - 1) * float((weights[2:] * values[2:]).sum() / weights[2:].sum())
    assert abs(float(mean.mean()) - exact) <= 4 * float(mean.std()) / np.sqrt(3000) + 1e-4 * exact


def test_emphasis_never_draws_a_weight_of_0():
    """Many times of weights that float32 sums up out of order; and each place of the batch has the law of t."""
    T = 20_000
    weights = np.random.default_rng(0).random(T + 1).astype(np.float32) ** 8
    weights[np.arange(T + 1) % 2 == 1] = 0
    draw = jax.vmap(lambda key, weights: timesteps.emphasis(weights)(key, 64, T).t, (0, None))
    t = jax.jit(draw)(jax.random.split(jax.random.key(0), 500), weights)
    assert (weights[np.asarray(t)] > 0).all()
    mean = (np.arange(T + 1) * weights)[2:].sum() / weights[2:].sum()
    np.testing.assert_allclose(np.asarray(t)[:, 0].mean(), mean, atol=4 * T / np.sqrt(12 * 500))


def test_emphasis_visits_each_t_in_proportion():
    """Counts differ from the proportion by at most one; the entries at 0 and 1 are not used."""
    weights = np.array([50.0, 70.0, 4.0, 3.0, 2.0, 1.0])
    t = timesteps.emphasis(jnp.asarray(weights))(jax.random.key(3), 37, 5).t
    counts = np.bincount(np.asarray(t), minlength=6)
    assert (np.abs(counts[2:] - 37 * weights[2:] / 10) < 1).all()
    assert counts[:2].sum() == 0


def test_emphasis_of_nothing_is_the_even_grid():
    even = timesteps.low_discrepancy(jax.random.key(1), 40, 100)
    alike = timesteps.emphasis(jnp.ones(101))(jax.random.key(1), 40, 100)
    np.testing.assert_array_equal(even.t, alike.t)
    np.testing.assert_array_equal(even.weight, alike.weight)
    with pytest.raises(ValueError, match=r"must have shape \(101,\), got \(30,\)"):
        timesteps.emphasis(jnp.ones(30))(jax.random.key(0), 4, 100)


def test_low_discrepancy_visits_each_t_equally():
    draw = timesteps.low_discrepancy(jax.random.key(3), 99 * 4, 100)
    counts = np.bincount(np.asarray(draw.t), minlength=101)
    assert set(counts[2:]) <= {3, 4, 5}


@pytest.mark.parametrize("num", [2, 6, 7])
def test_squared_errors_of_independent_values_are_unbiased(num):
    """Test each design of times; equal pairs count as one value, and pairs that cancel have no error."""
    values = jax.random.normal(jax.random.key(0), (20_000, num))
    twice = jnp.repeat(values, 2, axis=1)
    opposite = twice * jnp.tile(jnp.array([1.0, -1]), num)

    @jax.jit
    def errors():
        of = lambda values, design: jax.vmap(lambda v: timesteps.stderr_of_mean(v, design))(values)  # noqa: E731
        alike = of(values, "independent"), of(values, "grid"), of(twice, "pairs")
        return jnp.stack(alike) ** 2, of(opposite, "pairs")

    squares, none = errors()
    squares = np.asarray(squares, np.float64)
    assert (np.abs(squares.mean(1) - 1 / num) < 4 * squares.std(1) / np.sqrt(20_000)).all()
    np.testing.assert_allclose(none, 0, atol=1e-6)


def test_a_visit_is_a_tenth_of_the_mean_square():
    """Visits in one batch are averaged, the first visit of a t replaces 0, and two visits forget 1 - 0.9^2."""
    table = timesteps.record(timesteps.table(3), jnp.array([3, 3, 2]), jnp.array([1.0, 3.0, 2.0]))
    np.testing.assert_allclose(table.square, [0, 0, 4, 5], rtol=1e-6)
    table = timesteps.record(table, jnp.array([3, 3]), jnp.array([2.0, 4.0]))
    np.testing.assert_allclose(table.square, [0, 0, 4, 0.81 * 5 + 0.19 * 10], rtol=1e-6)
    np.testing.assert_array_equal(table.visits, [0, 0, 1, 4])
    np.testing.assert_allclose(timesteps.probabilities(table), [0, 0, 0.5, 0.5], rtol=1e-6)
    known = timesteps.TimeTable(jnp.array([9.0, 9, 4, 36]), jnp.full(4, 10.0))
    np.testing.assert_allclose(timesteps.probabilities(known), [0, 0, 0.9 / 4 + 0.05, 0.9 * 3 / 4 + 0.05], rtol=1e-6)


def test_a_table_is_uniform_until_every_t_is_known_and_then_follows_the_terms():
    T = 20
    terms = jnp.concatenate([jnp.zeros(2), 0.5 + jnp.arange(T - 1.0)])
    table = timesteps.table(T)
    np.testing.assert_allclose(timesteps.probabilities(table)[2:], 1 / (T - 1), rtol=1e-6)

    @jax.jit
    def visit(table, key):
        t = timesteps.uniform(key, 64, T).t
        return timesteps.record(table, t, terms[t])

    for i in range(2):
        table = visit(table, jax.random.key(i))
    np.testing.assert_allclose(timesteps.probabilities(table)[2:], 1 / (T - 1), rtol=1e-6)
    for i in range(2, 20):
        table = visit(table, jax.random.key(i))
    assert float(table.visits[2:].min()) >= 10
    np.testing.assert_allclose(jnp.sqrt(table.square), terms, rtol=1e-5)
    p = np.asarray(timesteps.probabilities(table))
    np.testing.assert_allclose(p[2:], 0.9 * terms[2:] / terms[2:].sum() + 0.1 / (T - 1), rtol=1e-5)
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)


def test_a_table_forgets_and_survives_what_is_not_finite():
    table = timesteps.table(4)
    for value in (2.0, jnp.nan, jnp.inf, 2.0):
        table = timesteps.record(table, jnp.array([3]), jnp.array([value]))
    assert float(table.square[3]) == 4.0
    assert float(table.visits[3]) == 2
    for _ in range(80):
        table = timesteps.record(table, jnp.array([3]), jnp.array([1.0]))
    np.testing.assert_allclose(table.square[3], 1.0, rtol=1e-3)


def test_neighbours_share_an_entry_of_a_table():
    """At most 64 entries, alike in size to one; a real t counts as the step that it lies in."""
    T = 1000
    table = timesteps.record(timesteps.table(T), jnp.array([2, 500, T]), jnp.array([1.0, 2.0, 3.0]))
    square, visits = np.asarray(table.square), np.asarray(table.visits)
    assert not square[:2].any()
    for t, value in ((2, 1.0), (500, 4.0), (T, 9.0)):
        shared = np.flatnonzero(square == value)
        assert t in shared
        np.testing.assert_array_equal(shared, np.arange(shared[0], shared[-1] + 1))
        np.testing.assert_array_equal(visits[shared], 1)
    sizes = [(square == value).sum() for value in (1, 4, 9)]
    assert max(sizes) - min(sizes) <= 1
    assert 64 * min(sizes) <= T - 1 <= 64 * max(sizes)
    real = timesteps.record(timesteps.table(T), jnp.array([1.0, 499.2, 999.01]), jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(real.square, square)
    # Ten visits of each of 64 entries, and the table is believed.
    for i in range(11):
        t = timesteps.low_discrepancy(jax.random.key(i), 64, T).t
        table = timesteps.record(table, t, 1.0 + (t > 500))
    shares = np.asarray(timesteps.probabilities(table))
    np.testing.assert_allclose(shares[2:].sum(), 1, rtol=1e-5)
    assert shares[900] > 1.5 * shares[100]


def test_importance_from_a_table_is_unbiased_and_of_less_variance():
    T = 50
    terms = jnp.concatenate([jnp.zeros(2), 100.0 / jnp.arange(2.0, T + 1)])
    table = timesteps.TimeTable(terms**2, jnp.full(T + 1, 10.0))

    def spread(sampler):
        def estimate(key):
            draw = sampler(key, 8, T)
            return jnp.mean(draw.weight * terms[draw.t])

        return jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(0), 4000))

    plain, weighted = spread(timesteps.uniform), spread(timesteps.importance(timesteps.probabilities(table)))
    assert abs(float(weighted.mean()) - float(terms.sum())) < 4 * float(weighted.std()) / np.sqrt(4000)
    assert float(weighted.std()) < 0.25 * float(plain.std())
