"""DDIM against its equations in float64, against the posterior at eta = 1, and as a map of laws at eta = 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpm_jax import Bernoulli, Binomial, Gaussian, Model, Normal, optimal, respacing, sampling, schedules
from dpm_jax.ddim import ddim
from tests import chains

KEY = jax.random.key(0)
MEAN = jnp.array([0.3, -0.2])
COVARIANCE = jnp.array([[1.4, 0.5], [0.5, 0.6]])


def estimate(x):
    return 0.4 * jnp.sin(x) + 0.1


def model(schedule, variance=0.2):
    return Model(Gaussian(schedule), lambda x, t: Normal(estimate(x), variance))


def probes(num_timesteps):
    t = jnp.tile(jnp.arange(1, num_timesteps + 1, dtype=jnp.int32), 3)
    return jax.random.normal(KEY, (len(t), 2)), t


@settings(deadline=None, max_examples=20)
@given(st.floats(0, 1), st.sampled_from([1, 2, 9]))
def test_the_equations_in_float64(eta, num_timesteps):
    schedule = schedules.geometric(num_timesteps, beta_1=1e-2)
    x_t, t = probes(num_timesteps)
    p = ddim(model(schedule), eta).reverse(x_t, t)
    alpha_bar = np.asarray(schedule.alpha_bar, np.float64)
    now, before = alpha_bar[np.asarray(t)][:, None], alpha_bar[np.asarray(t) - 1][:, None]
    variance = eta**2 * (1 - before) / (1 - now) * (1 - now / before)
    x, x_0 = np.asarray(x_t, np.float64), np.asarray(estimate(x_t), np.float64)
    eps = (x - np.sqrt(now) * x_0) / np.sqrt(1 - now)
    mean = np.sqrt(before) * x_0 + np.sqrt(np.maximum(1 - before - variance, 0)) * eps
    np.testing.assert_allclose(p.mean, mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(p.variance, np.broadcast_to(variance, x.shape), rtol=1e-3, atol=1e-6)
    assert p.mean.dtype == p.variance.dtype == jnp.float32


@pytest.mark.parametrize("num_timesteps", [1, 7, 1000])
def test_eta_one_is_the_posterior_at_the_estimate(num_timesteps):
    schedule = schedules.geometric(num_timesteps, beta_1=1e-4)
    x_t, t = probes(num_timesteps)
    p = ddim(model(schedule), 1.0).reverse(x_t, t)
    q = Gaussian(schedule).posterior(estimate(x_t), x_t, t)
    np.testing.assert_allclose(p.mean, q.mean, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(p.variance, q.variance, rtol=1e-5)


def short(num_timesteps, num, eta):
    """DDIM on the optimal model of normal data, respaced to `num` steps."""
    schedule = schedules.geometric(num_timesteps, beta_1=1e-4)
    times = respacing.uniform(num_timesteps, num)
    exact = optimal.normal(Gaussian(schedule), MEAN, COVARIANCE)
    return ddim(respacing.respace(exact, times, edge="decoder"), eta)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_law_of_the_data_is_reached_as_steps_become_many(eta):
    errors = []
    for num in (20, 80, 320):
        mean, covariance = chains.normal_law(short(320, num, eta), 2)
        errors.append(np.abs(mean - MEAN).max() + np.abs(covariance - COVARIANCE).max())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.04


def test_eta_zero_is_a_function_of_the_first_state():
    implicit = short(50, 10, 0.0)
    x, k = probes(10)
    assert (np.asarray(implicit.reverse(x, k).variance) == 0).all()
    # Every sample is the same function of its x_T, whatever noise is placed on the way.
    samples, x = jax.jit(
        lambda: (sampling.sample(KEY, implicit, 6, (2,)), sampling.trajectory(KEY, implicit, 6, (2,)).x[0])
    )()
    step = jax.jit(lambda x, t: implicit.reverse(x, t).mean)
    for t in range(10, 0, -1):
        x = step(x, jnp.full(6, t, jnp.int32))
    np.testing.assert_allclose(samples, x, rtol=1e-4, atol=1e-5)


def test_jit_vmap_grad():
    base = schedules.geometric(6, beta_1=1e-2)

    def end(c, x):
        implicit = ddim(model(schedules.learned(base, c)), 0.0)
        for t in range(6, 0, -1):
            x = implicit.reverse(x, jnp.full(len(x), t, jnp.int32)).place(jnp.ones_like(x))
        return x.sum()

    c, x = jnp.array([0.2, -0.1]), jax.random.normal(KEY, (4, 2))
    gradient = jax.jit(jax.grad(end, argnums=(0, 1)))(c, x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    h = 1e-2 * jnp.eye(2)[0]
    above, below = jax.jit(jax.vmap(end, (0, None)))(jnp.stack([c + h, c - h]), x)
    np.testing.assert_allclose(gradient[0][0], (above - below) / 2e-2, rtol=5e-2, atol=1e-3)
    several, together = jax.jit(lambda x: (jax.vmap(lambda x: end(c, x[None]))(x), end(c, x)))(x)
    np.testing.assert_allclose(several.sum(), together, rtol=1e-5)


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_other_eta_are_refused(eta):
    schedule = schedules.geometric(3)
    with pytest.raises(ValueError, match=r"eta: must lie in \[0, 1\]"):
        ddim(model(schedule), eta)


def test_other_models_are_refused():
    bits = Model(Binomial(schedules.erase(3)), lambda x, t: Bernoulli(x))
    with pytest.raises(ValueError, match="got a Binomial"):
        ddim(bits, 0.0)
    by_steps = model(schedules.geometric(3))
    with pytest.raises(ValueError, match="needs its denoiser"):
        ddim(Model.from_steps(by_steps.process, by_steps.reverse), 0.0)
