"""Networks: shapes, dtypes, what they are at initialisation, and the paper's forms against NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import nets

KEY = jax.random.key(0)
NETWORKS = {
    "time_mlp": nets.TimeMLP(num_outputs=5, clock=lambda t: t / 10, num_frequencies=8),
    "time_mlp_plain": nets.TimeMLP(num_outputs=5, clock=lambda t: t / 10, features=(7,), num_bumps=1),
    "sigmoid_mlp": nets.SigmoidMLP(num_outputs=5, num_timesteps=10),
    "rbf": nets.RBF(num_outputs=5, num_timesteps=10),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_begin_at_zero_and_learn(name):
    network = NETWORKS[name]
    x, t = jax.random.normal(KEY, (6, 3)), jnp.array([1, 2, 3, 8, 9, 10])
    params = network.init(KEY, x, t)
    y = jax.jit(network.apply)(params, x, t)
    assert y.shape == (6, 5)
    assert y.dtype == jnp.float32
    np.testing.assert_array_equal(y, 0)
    gradient = jax.grad(lambda p: (network.apply(p, x, t) - 1).sum())(params)
    assert any(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(gradient))


def randomised(network, x, t):
    params = network.init(KEY, x, t)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(KEY, len(leaves))
    return jax.tree.unflatten(
        tree, [leaf + 0.3 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    )


def test_rbf_is_the_papers_formula():
    network = NETWORKS["rbf"]
    x, t = jax.random.normal(KEY, (4, 3)), jnp.array([1, 5, 5, 10])
    params = randomised(network, x, t)
    p = jax.tree.map(lambda a: np.asarray(a, float), params["params"])
    readout = p["PerTimestepReadout_0"]
    for i in range(4):
        distance2 = ((np.asarray(x[i], float) - p["centres"]) ** 2).sum(1)
        bumps = np.exp(-0.5 * distance2 / np.exp(p["log_width"]) ** 2)
        k = int(t[i]) - 1
        expected = bumps / bumps.sum() @ readout["kernel"][k].reshape(16, -1) + readout["bias"][k]
        np.testing.assert_allclose(network.apply(params, x, t)[i], expected, rtol=1e-4, atol=1e-5)


def test_sigmoid_mlp_has_a_readout_for_each_time_and_shared_layers():
    network = NETWORKS["sigmoid_mlp"]
    x, t = jnp.ones((2, 3)), jnp.array([3, 4])
    params = randomised(network, x, t)
    assert params["params"]["PerTimestepReadout_0"]["kernel"].shape == (10, 50 * 5)
    a, b = network.apply(params, x, t)
    assert float(jnp.abs(a - b).max()) > 0.01
    gradient = jax.grad(lambda p: network.apply(p, x, t).sum())(params)["params"]["PerTimestepReadout_0"]["bias"]
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(gradient).any(1)), [2, 3])


def test_time_mlp_is_smooth_in_time_and_uses_the_input():
    network = NETWORKS["time_mlp"]
    x = jnp.ones((101, 3))
    t = jnp.linspace(0, 10, 101)
    params = randomised(network, x, t)
    y = network.apply(params, x, t)
    assert float(jnp.abs(y[0] - y[-1]).max()) > 0.01
    assert float(jnp.abs(jnp.diff(y, axis=0)).max()) < 0.2 * float(jnp.abs(y).max())
    assert float(jnp.abs(network.apply(params, 2 * x, t) - y).max()) > 0.01


def test_networks_are_flax_modules_that_hash():
    for network in NETWORKS.values():
        assert isinstance(network, nn.Module)
        hash(network)
