"""Schedules against float64 (and extended precision), their edges, and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpm_jax import Gaussian, bound, predictions, schedules

MAKERS = {
    "geometric": lambda T: schedules.geometric(T, beta_1=3e-7),
    "erase": lambda T: schedules.erase(T),
    "erase_gaussian": lambda T: schedules.erase(T, beta_1=1e-5, alpha_bar_final=1e-3),
    "linear": schedules.linear,
    "cosine": schedules.cosine,
    "sigmoid": schedules.sigmoid,
}


def reference_betas(name: str, T: int) -> np.ndarray:
    """beta_1..beta_T from each schedule's definition, in extended precision."""
    t = np.arange(1, T + 1, dtype=np.longdouble)
    if name == "geometric":
        low, high = np.log(np.longdouble(3e-7)) - np.log1p(-np.longdouble(3e-7)), np.log(np.longdouble(400))
        nu = np.exp(low + (high - low) * (t - 1) / (T - 1))
        nu_prev = np.concatenate([[0], nu[:-1]])
        return (nu - nu_prev) / (1 + nu)
    if name == "erase":
        return 1 / (T - t + 1)
    if name == "erase_gaussian":
        first, last = np.longdouble(1e-5), np.longdouble(1e-3)
        alpha_bar = (1 - first) + (last - (1 - first)) * (t - 1) / (T - 1)
        return np.concatenate([[first], (alpha_bar[:-1] - alpha_bar[1:]) / alpha_bar[:-1]])
    if name == "linear":
        return np.linspace(np.longdouble(0.1) / T, np.longdouble(20) / T, T)
    if name == "sigmoid":
        rise = 1 / (1 + np.exp(3 - 6 * np.arange(T + 1, dtype=np.longdouble) / T))
        alpha_bar = 1 - (1 - np.longdouble(1e-4)) * (rise - rise[0]) / (rise[-1] - rise[0])
        return 1 - alpha_bar[1:] / alpha_bar[:-1]
    angle = (np.arange(T + 1, dtype=np.longdouble) / T + 0.008) / 1.008 * np.pi / 2
    alpha_bar = np.cos(angle) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


@pytest.mark.parametrize("T", [1000, 10_000])
@pytest.mark.parametrize("name", MAKERS)
def test_float32_arrays_agree_with_extended_precision(name, T):
    schedule = MAKERS[name](T)
    beta = reference_betas(name, T)
    assert schedule.num_timesteps == T
    for array in schedule:
        assert array.shape == (T + 1,)
        assert array.dtype == jnp.float32
    # 1 - prod(1 - beta), accumulated without loss: sigma2_t = sigma2_{t-1} + alpha_bar_{t-1} beta_t.
    alpha_bar = np.concatenate([[1], np.cumprod(1 - beta)])
    sigma2 = np.concatenate([[0], np.cumsum(alpha_bar[:-1] * beta)])
    np.testing.assert_allclose(np.asarray(schedule.sigma2, np.float64), sigma2.astype(np.float64), rtol=2e-6)
    np.testing.assert_allclose(np.asarray(schedule.beta[1:], np.float64), beta.astype(np.float64), rtol=2e-6)
    np.testing.assert_allclose(
        np.asarray(schedule.alpha_bar, np.float64), alpha_bar.astype(np.float64), rtol=2e-6, atol=1e-12
    )
    nu = sigma2[1:-1] / alpha_bar[1:-1]
    np.testing.assert_allclose(schedule.log_nsr[1:-1], np.log(nu).astype(np.float64), rtol=1e-6, atol=1e-6)
    # The increments could not be had from float32 log nu: at T = 10 000 they are a few 1e-3.
    np.testing.assert_allclose(schedule.log_nsr_step[2:-1], np.diff(np.log(nu)).astype(np.float64), rtol=3e-6)


def test_the_naive_product_would_fail_the_accuracy_that_is_asked_for():
    schedule = schedules.geometric(1000, beta_1=2e-8)
    naive = 1 - jnp.cumprod(1 - schedule.beta)
    assert abs(float(naive[1] / schedule.sigma2[1]) - 1) > 0.1


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("T", [1, 2, 3, 10, 40])
def test_short_chains_are_monotone_and_start_at_the_data(name, T):
    schedule = MAKERS[name](T)
    assert schedule.num_timesteps == T
    assert schedule.alpha_bar[0] == 1
    assert schedule.sigma2[0] == 0
    assert bool((jnp.diff(schedule.alpha_bar) < 0).all())
    assert bool((schedule.beta[1:] > 0).all() & (schedule.beta[1:] <= 1).all())
    assert not any(bool(jnp.isnan(array).any()) for array in schedule)


def test_erase_is_the_papers_schedule_exactly():
    T = 2000
    schedule = schedules.erase(T)
    t = np.arange(1, T + 1)
    np.testing.assert_allclose(schedule.beta[1:], 1 / (T - t + 1), rtol=1e-6)
    np.testing.assert_allclose(schedule.alpha_bar[1:], 1 - t / T, rtol=1e-6)
    assert schedule.alpha_bar[T] == 0


def test_linear_is_ddpms_at_a_thousand():
    schedule = schedules.linear(1000)
    np.testing.assert_allclose(schedule.beta[1:], np.linspace(1e-4, 0.02, 1000), rtol=1e-6)


@given(st.lists(st.floats(1e-6, 0.99), min_size=1, max_size=50))
@settings(deadline=None, max_examples=50)
def test_from_beta_returns_its_own_rates(betas):
    schedule = schedules.from_beta(np.asarray(betas))
    np.testing.assert_allclose(schedule.beta[1:], betas, rtol=1e-4)
    np.testing.assert_allclose(schedule.alpha_bar + schedule.sigma2, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: schedules.geometric(0), "num_timesteps"),
        (lambda: schedules.erase(-1), "num_timesteps"),
        (lambda: schedules.geometric(10, beta_1=1.5), "beta_1 must lie in (0, 1), got 1.5"),
        (lambda: schedules.geometric(10, beta_1=0.9, nsr_final=1.0), "nsr_final"),
        (lambda: schedules.linear(10, beta_final=1.0), "beta_final must lie in (0, 1), got 1"),
        (lambda: schedules.erase(10, beta_1=0.5, alpha_bar_final=0.6), "alpha_bar_final"),
        (lambda: schedules.cosine(10, offset=0.0), "offset"),
        (lambda: schedules.sigmoid(10, start=2.0, end=1.0), "end must exceed start = 2"),
        (lambda: schedules.sigmoid(10, alpha_bar_final=0.0), "alpha_bar_final"),
        (lambda: schedules.from_beta(np.array([0.1, 0.0, 0.2])), "beta_2 = 0"),
        (lambda: schedules.from_beta(np.array([0.1, np.nan, 0.2])), "beta_2 = nan"),
        (lambda: schedules.from_log_nsr(np.array([0.0, 1.0, 0.5])), "from t = 2 to 3"),
    ],
)
def test_bad_schedules_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=r"schedule|num_timesteps") as error:
        make()
    assert words in str(error.value)


@pytest.mark.parametrize("T", [1, 2, 40, 1000])
def test_learned_with_zero_coefficients_is_its_base(T):
    base = schedules.geometric(T)
    schedule = schedules.learned(base, jnp.zeros(10))
    for ours, theirs in zip(schedule, base, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-5)


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
@settings(deadline=None, max_examples=25)
def test_learned_keeps_the_endpoints_and_the_order(coefficients):
    base = schedules.geometric(40, beta_1=1e-4)
    schedule = schedules.learned(base, jnp.asarray(coefficients, jnp.float32))
    np.testing.assert_allclose(schedule.beta[1], base.beta[1], rtol=1e-6)
    np.testing.assert_allclose(schedule.log_nsr[-1], base.log_nsr[-1], rtol=1e-5)
    assert bool((schedule.log_nsr_step[2:] > 0).all())


def test_learned_gradient_agrees_with_finite_differences():
    base = schedules.geometric(30, beta_1=1e-3)
    weights = jnp.linspace(-1, 1, 31)

    def value(c):
        schedule = schedules.learned(base, c)
        return jnp.sum(weights * schedule.beta) + jnp.sum(weights[1:] * schedule.log_nsr[1:])

    c = jnp.linspace(-0.5, 0.7, 5)
    gradient = jax.jit(jax.grad(value))(c)
    assert bool(jnp.isfinite(gradient).all())
    for i in range(5):
        h = 1e-2 * jnp.eye(5)[i]
        np.testing.assert_allclose(gradient[i], (value(c + h) - value(c - h)) / 2e-2, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("num", [1, 2, 10])
def test_bump_basis_sums_to_one(num):
    basis = schedules.bump_basis(jnp.linspace(0, 1, 33), num)
    assert basis.shape == (33, num)
    np.testing.assert_allclose(basis.sum(-1), 1, rtol=1e-6)
    if num > 1:
        assert bool((basis[0].argmax() == 0) & (basis[-1].argmax() == num - 1))


@pytest.mark.parametrize("T", [1000, 10_000])
def test_learned_in_float32_agrees_with_float64(T):
    base = schedules.geometric(T, beta_1=3e-7)
    c = np.linspace(-1.0, 1.5, 8)
    schedule = jax.jit(schedules.learned)(base, jnp.asarray(c, jnp.float32))
    first, last = np.log(3e-7) - np.log1p(-3e-7), np.log(400.0)
    position = np.arange(T - 1) / (T - 2)
    log_bumps = -0.5 * ((position[:, None] - np.linspace(0, 1, 8)) * 14) ** 2
    bumps = np.exp(log_bumps) / np.exp(log_bumps).sum(1, keepdims=True)
    weight = np.exp(bumps @ c)
    step = weight / weight.sum() * (last - first)
    log_nsr = np.concatenate([[first], first + np.cumsum(step)])
    sigma2 = 1 / (1 + np.exp(-log_nsr))
    np.testing.assert_allclose(schedule.log_nsr_step[2:], step, rtol=2e-5)
    np.testing.assert_allclose(schedule.log_nsr[1:], log_nsr, rtol=2e-6, atol=2e-5)
    np.testing.assert_allclose(schedule.beta[2:], sigma2[1:] * -np.expm1(-step), rtol=4e-5)


@pytest.mark.parametrize("make", [schedules.from_beta, schedules.from_alpha_bar, schedules.from_log_nsr])
def test_a_traced_schedule_is_refused_by_name(make):
    with pytest.raises(ValueError, match=r"schedule: (beta|alpha_bar|log_nsr) is traced by jit or grad"):
        jax.grad(lambda x: make(x).beta.sum())(jnp.full(3, 0.1))


@pytest.mark.parametrize("shift", [(0.0, 0.0), (-3.0, 0.5), (4.0, -20.0), (30.0, 3.0)])
def test_learned_ends_are_where_they_are_put_and_keep_their_order(shift):
    base = schedules.geometric(20, beta_1=1e-3, nsr_final=100.0)
    found = jax.jit(schedules.with_ends)(base, jnp.asarray(shift))
    log_nsr = np.asarray(base.log_nsr, np.float64)[1:]
    expected = log_nsr[0] + shift[0] + np.exp(shift[1]) * (log_nsr - log_nsr[0])
    np.testing.assert_allclose(found.log_nsr[1:], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.log_nsr_step[2:], np.diff(expected), rtol=1e-4)
    assert (np.asarray(found.log_nsr_step[2:]) > 0).all()
    np.testing.assert_allclose(found.sigma2[1:], 1 / (1 + np.exp(-expected)), rtol=1e-4)


def test_of_learned_ends_the_prior_s_term_wants_more_noise_and_the_slope_is_that_of_differences():
    base = schedules.geometric(20, beta_1=1e-3, nsr_final=2.0)

    def prior(shift):
        return bound.prior_term(Gaussian(schedules.with_ends(base, shift)), jnp.full((1, 3), 0.7))[0]

    slope = jax.grad(prior)(jnp.zeros(2))
    change = [(prior(1e-2 * e) - prior(-1e-2 * e)) / 2e-2 for e in jnp.eye(2)]
    np.testing.assert_allclose(slope, change, rtol=1e-2)
    assert (slope < 0).all()
    assert schedules.with_ends(schedules.geometric(1), jnp.ones(2)).num_timesteps == 1


def test_ends_have_gradients_where_the_model_codes_the_first_step():
    """At t = 1 with a decoder: the ratio of sigma2_0 = 0 to sigma2_1 has no gradient of its root."""
    base = schedules.geometric(5, beta_1=0.01)
    x_0 = 0.5 * jax.random.normal(jax.random.key(0), (64, 2))

    def k(shift):
        process = Gaussian(schedules.with_ends(base, shift))
        model = predictions.gaussian(process, lambda x_t, t: 0.1 * jnp.concatenate([x_t, x_t], axis=-1))
        return bound.estimate(jax.random.key(1), model, x_0, edge="decoder").mean

    gradient = jax.jit(jax.grad(k))(jnp.zeros(2))
    compiled, step = jax.jit(k), 0.02
    for i, shift in enumerate(step * jnp.eye(2)):
        np.testing.assert_allclose(gradient[i], (compiled(shift) - compiled(-shift)) / (2 * step), rtol=0.02, atol=2e-3)
