"""Draws in proportion to weights, against shares in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax.numerics import systematic


def spread_weights(num):
    """Return weights over five orders of magnitude; a third of them, and the last ones, are 0."""
    rng = np.random.default_rng(num)
    weights = np.exp(3 * rng.standard_normal(num)).astype(np.float32)
    weights[rng.random(num) < 0.3] = weights[:2] = weights[-3:] = 0
    return weights


@pytest.mark.parametrize(("size", "num"), [(1000, 1000), (10**6, 10**6), (10**6, 7), (40, 10**6)])
def test_counts_are_within_one_of_their_share_and_none_has_weight_0(size, num):
    weights = spread_weights(size)
    draw = jax.jit(lambda offset, weights: systematic.indices(offset, weights, num))
    share = num * weights.astype(float) / weights.astype(float).sum()
    for offset in (0.0, 0.37, np.nextafter(np.float32(1), np.float32(0))):
        index = np.asarray(draw(jnp.float32(offset), weights))
        assert index.dtype == np.int32
        assert (np.diff(index) >= 0).all()
        assert (weights[index] > 0).all()
        assert (np.abs(np.bincount(index, minlength=size) - share) < 1 + num / 2**28).all()


def test_rows_are_drawn_each_by_itself():
    weights = jnp.asarray([[0.0, 2.0, 0.0], [1.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    index = systematic.indices(jnp.asarray([0.9, 0.5, 0.5]), weights, 4)
    np.testing.assert_array_equal(index, [[1, 1, 1, 1], [0, 2, 2, 2], [0, 0, 0, 0]])


def test_expected_counts_are_the_shares():
    weights = jnp.asarray([0.013, 0.4, 0.0, 0.25, 0.337])
    index = systematic.indices((jnp.arange(1000) + 0.5) / 1000, jnp.broadcast_to(weights, (1000, 5)), 5)
    np.testing.assert_allclose(np.bincount(index.ravel(), minlength=5) / 5000, weights, atol=2e-4)
