"""The bound of another library's network, computed from its answers."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from benchmarks.equal_minutes import bounds
from dpm_jax import Gaussian, bound, predictions, schedules

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 3), np.uint8)
PROCESS = Gaussian(schedules.cosine(1000))


def answers(asked, network):
    """Answer as a network would that is asked about the noise."""
    x_0 = network(asked.x_t, asked.t)
    how = {"source": "x_0", "target": "epsilon"}
    epsilon = predictions.convert(PROCESS.schedule, x_0, asked.x_t, asked.t, **how)
    return np.concatenate([epsilon, -jnp.ones_like(epsilon)], axis=-1)


def test_who_knows_x_0_pays_for_the_decoder_alone():
    asked = bounds.questions(IMAGES)
    found = bounds.of_answers(asked, answers(asked, lambda x_t, t: jnp.tile(asked.x_0, (28, 1, 1, 1))))
    sigma = float(np.sqrt(PROCESS.schedule.beta[1]))
    x = np.asarray(asked.x_0, np.float64)
    high = np.where(IMAGES < 255, norm.cdf(1 / 255 / sigma), 1.0)
    low = np.where(IMAGES > 0, norm.cdf(-1 / 255 / sigma), 0.0)
    # The prior's term is all but nothing: alpha_bar_T is.
    np.testing.assert_allclose(found, -np.log2(high - low).reshape(64, -1).mean(1), atol=2e-3)
    assert np.abs(x).max() <= 1


def test_it_is_the_bound_of_the_same_model():
    """The network guesses x_0 by a shrunken x_t; `bound.evaluate` visits every t."""

    def guess(x_t, t):
        alpha_bar = jnp.asarray(PROCESS.schedule.alpha_bar)[t][:, None, None, None]
        return jnp.sqrt(alpha_bar) * x_t / (alpha_bar + 3 * (1 - alpha_bar))

    def network(x_t, t):
        epsilon = predictions.convert(PROCESS.schedule, guess(x_t, t), x_t, t, source="x_0", target="epsilon")
        return jnp.concatenate([epsilon, -jnp.ones_like(epsilon)], axis=-1)

    model = predictions.gaussian(PROCESS, network, prediction="epsilon", variance="interpolated")
    asked = bounds.questions(IMAGES)
    found = bounds.of_answers(asked, answers(asked, guess))

    def edge(p, x_0):
        return p.bin_log_prob(x_0, width=2 / 255, lowest=-1.0, highest=1.0)

    k = jax.jit(lambda key: bound.evaluate(key, model, asked.x_0, edge=edge).k)(jax.random.key(1))
    apart = found + np.asarray(k, np.float64) / np.log(2) / 48
    assert abs(apart.mean()) < 4 * apart.std() / 8 < 0.3 * found.mean()


def test_the_loss_is_given_the_posterior_s_variance():
    arrays = bounds.schedule_arrays()
    t = jnp.array([2, 3, 500, 1000])
    x = jnp.zeros((4, 1))
    np.testing.assert_allclose(arrays["variance"][t], PROCESS.posterior(x, x, t).variance[:, 0], rtol=1e-5)
    np.testing.assert_allclose(arrays["variance"][1], arrays["beta"][1])
    np.testing.assert_allclose(arrays["alpha_bar"][1:], np.cumprod(1 - arrays["beta"][1:]), rtol=1e-3, atol=1e-7)
