"""Networks and laws of other libraries, where they are installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dpm_jax import Gaussian, Model, Normal, bound, predictions, sample, schedules

KEY = jax.random.key(0)
PROCESS = Gaussian(schedules.geometric(10, beta_1=1e-3))
X = jax.random.normal(jax.random.key(1), (8, 2))


def test_an_nnx_network_is_a_network():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(3, 4, rngs=rngs)

        def __call__(self, x, t):
            return self.linear(jnp.concatenate([x, t[:, None] / 10], -1))

    net = Net(nnx.Rngs(0))

    def loss(net):
        return -bound.estimate(KEY, predictions.gaussian(PROCESS, net), X).mean

    loss, gradient = nnx.jit(loss), nnx.jit(nnx.grad(loss))(net)
    step = 1e-2
    kernel = net.linear.kernel[...]
    slope = gradient.linear.kernel[...]
    change = []
    for sign in (1, -1):
        net.linear.kernel[...] = kernel + sign * step * slope / jnp.linalg.norm(slope)
        change.append(float(loss(net)))
    np.testing.assert_allclose((change[0] - change[1]) / (2 * step), jnp.linalg.norm(slope), rtol=0.02)
    assert sample(KEY, predictions.gaussian(PROCESS, net), 3, (2,)).shape == (3, 2)


def test_a_numpyro_law_is_a_law_of_x_0():
    distributions = pytest.importorskip("numpyro.distributions", reason="numpyro is not installed")
    theirs = Model(PROCESS, lambda x_t, t: distributions.Normal(0.5 * x_t, 0.3).to_event(1))
    ours = Model(PROCESS, lambda x_t, t: Normal(0.5 * x_t, jnp.full_like(x_t, 0.09)))
    found, wanted = (bound.estimate(KEY, model, X, edge="decoder").k for model in (theirs, ours))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
