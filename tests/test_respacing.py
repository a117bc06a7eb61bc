"""Short chains against exact chains of the subschedule; their table of costs against K; its optimum against all."""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpm_jax import (
    Bernoulli,
    Binomial,
    FullNormal,
    Gaussian,
    Model,
    Normal,
    bound,
    forward_edge,
    optimal,
    respacing,
    sampling,
    schedules,
)
from tests import chains

KEY = jax.random.key(0)
MEAN = jnp.array([0.3, -0.2])
COVARIANCE = jnp.array([[1.4, 0.5], [0.5, 0.6]])
POINTS = jnp.asarray(chains.STRINGS[[3, 9, 17, 30]], jnp.float32)
LOG_WEIGHTS = jnp.log(jnp.asarray([0.4, 0.3, 0.2, 0.1]))
SPACINGS = (respacing.uniform, respacing.quadratic)


def normal_model(schedule):
    """Independent normals, right in the mean of standard data only."""

    def denoise(x, t):
        variance = (0.5 * schedule.sigma2[t] + 0.1 * jnp.sin(t) ** 2)[:, None]
        return Normal(jnp.sqrt(schedule.alpha_bar[t])[:, None] * jnp.tanh(x), variance)

    return Model(Gaussian(schedule), denoise)


def bits_model(schedule):
    return Model(Binomial(schedule), lambda x, t: Bernoulli(0.3 + jnp.sin(x + t[:, None])))


CASES = [
    (normal_model(schedules.geometric(12, beta_1=1e-2)), jax.random.normal(KEY, (2000, 2))),
    (
        optimal.normal(Gaussian(schedules.geometric(12, beta_1=1e-2)), MEAN, COVARIANCE),
        0.8 * jax.random.normal(KEY, (2000, 2)),
    ),
    (bits_model(schedules.erase(12)), jax.random.bernoulli(KEY, 0.6, (2000, 5)).astype(jnp.float32)),
]
NAMES = ["normal", "full", "bits"]


# --- Which times ---


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 2000), st.data())
def test_spacings_are_increasing_times_that_end_in_the_last(num_timesteps, data):
    num = data.draw(st.integers(1, num_timesteps))
    for spacing in SPACINGS:
        times = spacing(num_timesteps, num)
        assert times.shape == (num,)
        assert np.issubdtype(times.dtype, np.integer)
        assert (np.diff(times) > 0).all()
        assert times[-1] == num_timesteps
        assert times[0] == 1 or num == 1
    gaps = np.diff(respacing.uniform(num_timesteps, num))
    assert gaps.max(initial=0) - gaps.min(initial=num_timesteps) <= 1


def test_quadratic_times_are_squares():
    np.testing.assert_array_equal(respacing.quadratic(101, 11), 1 + np.arange(11) ** 2)
    np.testing.assert_array_equal(respacing.quadratic(7, 7), np.arange(1, 8))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("num", [0, -1, 11])
def test_impossible_numbers_are_refused(spacing, num):
    with pytest.raises(ValueError, match=rf"num: must lie in 1\.\.10, got {num}"):
        spacing(10, num)


# --- The forward chain ---


@pytest.mark.parametrize("times", [[1000], [1, 2, 3, 1000], [1, 500, 999, 1000], [400, 401, 1000]])
def test_subschedule_is_the_chain_in_float64(times):
    log_nsr = np.linspace(math.log(400.0), math.log(3e-7) - math.log1p(-3e-7), 1000)[::-1]
    schedule = schedules.geometric(1000, beta_1=3e-7)
    short = respacing.subschedule(schedule, np.asarray(times))
    expected = schedules.from_log_nsr(log_nsr[np.asarray(times) - 1])
    assert short.num_timesteps == len(times)
    for name in schedule._fields:
        got, want = getattr(short, name), getattr(expected, name)
        assert got.dtype == jnp.float32, name
        np.testing.assert_allclose(got, want, rtol=2e-6, err_msg=name)


def test_subschedule_of_all_times_is_the_schedule():
    for schedule in (schedules.geometric(9), schedules.erase(9), schedules.geometric(1)):
        times = np.arange(1, schedule.num_timesteps + 1)
        chex.assert_trees_all_close(respacing.subschedule(schedule, times), schedule, rtol=1e-6)


def test_subschedule_of_a_learned_schedule_is_differentiable():
    base = schedules.geometric(20)
    times = respacing.quadratic(20, 6)

    def beta(c):
        return respacing.subschedule(schedules.learned(base, c), times).beta[3]

    c = jnp.array([0.3, -0.4, 0.2])
    gradient = jax.jit(jax.grad(beta))(c)
    for i in range(3):
        h = 1e-2 * jnp.eye(3)[i]
        np.testing.assert_allclose(gradient[i], (beta(c + h) - beta(c - h)) / 2e-2, rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize("times", [[], [0, 10], [1, 1, 10], [3, 2, 10], [1, 9], [1, 11], [[1, 10]], [1.0, 10.0]])
def test_other_times_are_refused(times):
    schedule = schedules.geometric(10)
    with pytest.raises(ValueError, match="times: must"):
        respacing.subschedule(schedule, np.asarray(times))
    with pytest.raises(ValueError, match="times: must"):
        respacing.respace(normal_model(schedule), np.asarray(times))
    with pytest.raises(ValueError, match="candidates: must"):
        respacing.costs(KEY, normal_model(schedule), jnp.zeros((2, 2)), candidates=np.asarray(times))


# --- The reverse chain ---


def probes(dim, num_steps, binary=False):
    """States and times: several x at each k in 1..K."""
    x = jax.random.normal(KEY, (4 * num_steps, dim))
    k = jnp.tile(jnp.arange(1, num_steps + 1, dtype=jnp.int32), 4)
    return (x > 0).astype(jnp.float32) if binary else x, k


OPTIMAL = {
    "full": lambda num: (Gaussian(schedules.geometric(num)), lambda process: optimal.normal(process, MEAN, COVARIANCE)),
    "bits": lambda num: (
        Binomial(schedules.erase(num)),
        lambda process: optimal.finite_bits(process, POINTS, LOG_WEIGHTS),
    ),
}


@pytest.mark.parametrize("kind", OPTIMAL)
def test_short_chains_of_optimal_models_are_optimal(kind):
    """The steps before a time do not depend on the steps after it, so the table gives the optimum exactly."""
    process, make = OPTIMAL[kind](60)
    is_bits = kind == "bits"

    @jax.jit
    def laws():
        pairs = []
        for times, edge in (([1, 4, 9, 30, 60], "forward"), ([2, 3, 59, 60], "decoder"), ([60], "forward")):
            short = respacing.respace(make(process), np.asarray(times), edge=edge)
            assert short.num_timesteps == len(times)
            expected = make(type(process)(respacing.subschedule(process.schedule, np.asarray(times))))
            expected = forward_edge(expected) if edge == "forward" else expected
            x, k = probes(5 if is_bits else 2, len(times), is_bits)
            pairs.append((short.reverse(x, k), expected.reverse(x, k)))
        return pairs

    for found, expected in laws():
        chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=3e-4)


@pytest.mark.parametrize(("model", "x_0"), CASES, ids=NAMES)
def test_all_times_are_the_model_itself(model, x_0):
    x, t = probes(x_0.shape[1], 12, isinstance(model.process, Binomial))

    @jax.jit
    def laws():
        edges = (("forward", forward_edge(model)), ("decoder", model))
        return [
            (respacing.respace(model, np.arange(1, 13), edge=edge).reverse(x, t), expected.reverse(x, t))
            for edge, expected in edges
        ]

    for short, expected in laws():
        chex.assert_trees_all_close(short, expected, rtol=2e-5, atol=2e-5)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(short))


def test_a_chain_of_one_step():
    for model in (normal_model(schedules.geometric(1)), bits_model(schedules.erase(1))):
        one = respacing.respace(model, np.asarray([1]))
        assert np.isfinite(jax.jit(lambda one=one: sampling.sample(KEY, one, 5, (3,)))()).all()


def test_an_unknown_edge_is_refused():
    model = normal_model(schedules.geometric(3))
    with pytest.raises(ValueError, match="edge: must be 'forward', 'decoder' or a function, got 'none'"):
        respacing.respace(model, np.asarray([3]), edge="none")
    with pytest.raises(ValueError, match="edge: must be 'forward', 'decoder' or a function, got 'none'"):
        respacing.costs(KEY, model, jnp.zeros((2, 2)), edge="none")


def test_samples_of_a_short_exact_chain_have_its_law():
    model = optimal.normal(Gaussian(schedules.geometric(100, beta_1=1e-3)), MEAN, COVARIANCE)
    short = respacing.respace(model, respacing.uniform(100, 8))
    mean, covariance = chains.normal_law(short, 2)
    x = np.asarray(jax.jit(lambda: sampling.sample(KEY, short, 20_000, (2,)))())
    np.testing.assert_allclose(x.mean(0), mean, atol=0.04)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.06)


def test_jit_vmap_grad_and_one_trace():
    base = schedules.geometric(15)
    times = respacing.quadratic(15, 5)
    x_0 = jax.random.normal(KEY, (32, 2))

    traces = []

    @jax.jit
    def numbers(c, key):
        traces.append(1)

        def k_of(c):
            short = respacing.respace(normal_model(schedules.learned(base, c)), times)
            return bound.evaluate(key, short, x_0).k.mean()

        return jax.value_and_grad(k_of)(c), jax.vmap(k_of)(jnp.stack([c, 2 * c]))

    c = jnp.array([0.1, -0.2])
    for seed in range(3):
        (value, gradient), several = numbers(c, jax.random.key(seed))
        np.testing.assert_allclose(several[0], value, rtol=1e-5)
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0
    assert len(traces) == 1


# --- The table of terms ---


@pytest.mark.parametrize(
    ("case", "edge"), [(0, "forward"), (1, "decoder"), (2, "forward"), (2, "decoder")], ids=[*NAMES, "bits decoder"]
)
def test_the_table_adds_up_to_the_bound_of_each_short_chain(case, edge):
    model, x_0 = CASES[case]
    table = jax.jit(lambda key, x: respacing.costs(key, model, x, edge=edge))(jax.random.key(1), x_0)
    assert all(leaf.dtype == jnp.float32 for leaf in table[1:])
    assert np.isinf(np.asarray(table.kl)[np.tril_indices(12)]).all()
    chosen = ([1, 4, 7, 12], [12])

    @jax.jit
    @jax.vmap
    def run(key):
        shorts = [respacing.respace(model, np.asarray(times), edge=edge) for times in chosen]
        return [bound.evaluate(key, short, x_0, edge=edge).k for short in shorts]

    for times, values in zip(chosen, run(jax.random.split(jax.random.key(2), 4)), strict=True):
        k = np.asarray(values, np.float64)
        # The table has one draw an example and this four; data are the same.
        noise = (k - k.mean(0)).std() * math.sqrt((4 / 3) * (1 + len(times)) / len(x_0))
        assert abs(respacing.cost_of(table, np.asarray(times)) + k.mean()) < 4 * noise + 1e-4, times


def test_the_table_of_full_laws_in_float64():
    """Compute every entry from alpha_bar alone, for the x_t that the key makes."""
    process, slope = Gaussian(schedules.geometric(5, beta_1=1e-2)), np.array([[0.6, 0.2], [-0.1, 0.4]])
    tril = np.array([[0.5, 0.0], [-0.3, 0.8]])
    model = Model(process, lambda x, t: FullNormal(x @ jnp.asarray(slope.T), jnp.asarray(tril)))
    x_0 = jax.random.normal(KEY, (32, 2))
    times = jnp.arange(1, 6, dtype=jnp.int32)
    table, x = jax.jit(
        lambda: (
            respacing.costs(KEY, model, x_0),
            jax.vmap(lambda t: process.marginal(x_0, jnp.full(32, t)).sample(KEY))(times),
        )
    )()
    alpha_bar, start, x = (np.asarray(a, np.float64) for a in (process.schedule.alpha_bar[1:], x_0, x))
    for j, now in enumerate(alpha_bar):
        prior = -0.5 * (2 * np.log(2 * np.pi) + (start**2).sum(1).mean())
        kl = 0.5 * (now * (start**2).sum(1).mean() - 2 * now - 2 * np.log1p(-now))
        np.testing.assert_allclose(table.edge[j], -(kl + prior), rtol=1e-4)
        for i, before in enumerate(alpha_bar[:j]):
            weight = np.sqrt(before) * (1 - now / before) / (1 - now)
            variance = (1 - before) * (1 - now / before) / (1 - now)
            total = variance * np.eye(2) + weight**2 * tril @ tril.T
            difference = weight * (start - x[j] @ slope.T)
            squares = np.einsum("ni,ij,nj->n", difference, np.linalg.inv(total), difference).mean()
            trace = variance * np.trace(np.linalg.inv(total))
            kl = 0.5 * (squares + trace - 2 - 2 * np.log(variance) + np.linalg.slogdet(total)[1])
            np.testing.assert_allclose(table.kl[i, j], kl, rtol=1e-3, atol=1e-4)


def test_a_table_of_candidates_is_a_part_of_the_whole(monkeypatch):
    model, x_0 = CASES[0]
    chosen = np.asarray([2, 3, 7, 12])

    @jax.jit
    def tables():
        whole = respacing.costs(KEY, model, x_0[:64])
        part = respacing.costs(KEY, model, x_0[:64], candidates=chosen)
        monkeypatch.setattr(respacing, "_BLOCK", 1000)
        return whole, part, respacing.costs(KEY, model, x_0[:64])

    whole, part, cut = tables()
    chex.assert_trees_all_close(cut, whole, rtol=1e-5)
    np.testing.assert_array_equal(part.times, chosen)
    np.testing.assert_allclose(part.edge, whole.edge[chosen - 1], rtol=1e-6)
    np.testing.assert_allclose(part.kl, whole.kl[np.ix_(chosen - 1, chosen - 1)], rtol=1e-4)
    assert respacing.cost_of(part, chosen) == pytest.approx(respacing.cost_of(whole, chosen), rel=1e-5)
    with pytest.raises(ValueError, match="times: 5 is none of the table's candidates"):
        respacing.cost_of(part, np.asarray([5, 12]))


# --- The optimum ---


def every_chain(num_timesteps, num):
    for earlier in itertools.combinations(range(1, num_timesteps), num - 1):
        yield np.asarray([*earlier, num_timesteps])


def test_the_optimum_is_the_best_of_all_chains():
    x_0 = jax.random.bernoulli(KEY, 0.3, (256, 3)).astype(jnp.float32)
    table = jax.jit(lambda: respacing.costs(KEY, bits_model(schedules.geometric(8, beta_1=1e-2)), x_0))()
    found = respacing.optimal_all(table)
    assert len(found) == 8
    for num in range(1, 9):
        best = min(every_chain(8, num), key=lambda times: respacing.cost_of(table, times))
        np.testing.assert_array_equal(found[num - 1].times, best)
        assert found[num - 1].cost == pytest.approx(respacing.cost_of(table, best), rel=1e-12)
        one = respacing.optimal(table, num)
        np.testing.assert_array_equal(one.times, best)
        assert one.cost == found[num - 1].cost
    for num in (0, 9):
        with pytest.raises(ValueError, match=rf"num: must lie in 1\.\.8, got {num}"):
            respacing.optimal(table, num)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_no_spacing_beats_the_optimum_of_any_table(n, seed):
    rng = np.random.default_rng(seed)
    kl = np.where(np.triu(np.ones((n, n), bool), 1), rng.exponential(size=(n, n)), np.inf)
    table = respacing.Costs(np.arange(1, n + 1), rng.normal(size=n), kl, rng.exponential())
    for num, found in enumerate(respacing.optimal_all(table), 1):
        assert len(found.times) == num
        assert found.cost == pytest.approx(respacing.cost_of(table, found.times), rel=1e-9, abs=1e-9)
        for spacing in SPACINGS:
            assert found.cost <= respacing.cost_of(table, spacing(n, num)) + 1e-9
