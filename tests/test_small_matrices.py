"""Algebra of small matrices against NumPy in float64, with certain coordinates and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax.numerics import small_matrices

RNG = np.random.default_rng(0)


def factors(dim, batch=(7,)):
    below = np.tril(RNG.standard_normal((*batch, dim, dim)), -1) * min(1, 3 / dim)
    return below + RNG.uniform(0.5, 2, (*batch, dim, 1)) * np.eye(dim)


@pytest.mark.parametrize("dim", [1, 2, 3, 6, 20])
def test_cholesky_gram_and_solve_are_numpys(dim):
    tril = factors(dim)
    covariance, b = tril @ tril.mT, RNG.standard_normal((7, dim))
    ours = jax.jit(small_matrices.cholesky)(jnp.asarray(covariance, jnp.float32))
    assert ours.shape == (7, dim, dim)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, np.linalg.cholesky(covariance), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(small_matrices.gram(jnp.asarray(tril, jnp.float32)), covariance, rtol=1e-5, atol=1e-5)
    solved = small_matrices.solve_lower(jnp.asarray(tril, jnp.float32), jnp.asarray(b, jnp.float32))
    np.testing.assert_allclose(solved, np.linalg.solve(tril, b[..., None])[..., 0], rtol=1e-4, atol=1e-5)


def test_more_batch_axes_and_vmap_change_nothing():
    tril = jnp.asarray(factors(3, (4, 5)), jnp.float32)
    covariance = small_matrices.gram(tril)
    np.testing.assert_allclose(small_matrices.cholesky(covariance), tril, rtol=1e-4, atol=1e-5)
    one_by_one = jax.vmap(jax.vmap(small_matrices.cholesky))(covariance)
    np.testing.assert_array_equal(one_by_one, small_matrices.cholesky(covariance))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_principal_axes_are_those_of_the_singular_value_decomposition(dim):
    """With standard deviations down to 1e-4 of the largest, one of 0, and a matrix that is diagonal already."""
    tril = factors(dim) * np.geomspace(1, 1e-4, dim)[:, None]
    tril[1, -1] = 0
    tril[2] = np.diag(np.diagonal(tril[2]))
    axes, scale = (np.asarray(a, float) for a in jax.jit(small_matrices.principal_axes)(jnp.asarray(tril, jnp.float32)))
    np.testing.assert_allclose(axes.mT @ axes, np.broadcast_to(np.eye(dim), axes.shape), atol=2e-6)
    np.testing.assert_allclose(-np.sort(-scale), np.linalg.svd(tril)[1], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(axes @ (scale[..., None] ** 2 * axes.mT), tril @ tril.mT, atol=2e-6 * (tril**2).max())


def test_entries_come_where_they_belong():
    rows = [[jnp.full(2, 10.0 * i + j) for j in range(3)] for i in range(3)]
    expected = 10 * np.arange(3)[:, None] + np.arange(3)
    np.testing.assert_array_equal(small_matrices.matrix(rows), np.broadcast_to(expected, (2, 3, 3)))


@pytest.mark.parametrize("certain", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_what_is_certain_has_zeros(certain):
    tril = factors(3)
    covariance = tril @ tril.mT
    covariance[:, certain] = covariance[:, :, certain] = 0
    low = small_matrices.cholesky(jnp.asarray(covariance, jnp.float32))
    np.testing.assert_array_equal(low[:, certain], 0)
    np.testing.assert_array_equal(low[:, :, certain], 0)
    np.testing.assert_allclose(small_matrices.gram(low), covariance, rtol=1e-5, atol=1e-5)


def test_a_sum_that_is_certain_is_factored_too():
    """Rank one: x_1 = 2 x_0, where the second pivot is rounding and may be below zero."""
    a = jnp.asarray(RNG.standard_normal((50, 1)), jnp.float32)
    line = jnp.concatenate([a, 2 * a, -3 * a], axis=1)
    covariance = line[:, :, None] * line[:, None]
    low = small_matrices.cholesky(covariance)
    assert bool(jnp.isfinite(low).all())
    np.testing.assert_allclose(small_matrices.gram(low), covariance, atol=1e-4)


def test_gradients_are_those_of_finite_differences():
    tril = jnp.asarray(factors(3, (1,))[0], jnp.float32)
    weights = jnp.asarray(RNG.standard_normal((3, 3)), jnp.float32)
    b = jnp.asarray([0.3, -1.0, 0.5])

    def value(tril):
        low = small_matrices.cholesky(small_matrices.gram(tril) + jnp.eye(3))
        return (weights * low).sum() + (small_matrices.solve_lower(low, b) ** 2).sum()

    value, gradient = jax.jit(value), jax.jit(jax.grad(value))(tril)
    for i, j in zip(*np.tril_indices(3), strict=True):
        h = jnp.zeros((3, 3)).at[i, j].set(1e-2)
        np.testing.assert_allclose(gradient[i, j], (value(tril + h) - value(tril - h)) / 2e-2, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("certain", [0, 1, 2])
def test_gradients_are_finite_where_something_is_certain(certain):
    tril = factors(3)
    covariance = tril @ tril.mT
    covariance[:, certain] = covariance[:, :, certain] = 0
    gradient = jax.jit(jax.grad(lambda c: small_matrices.cholesky(c).sum()))(jnp.asarray(covariance, jnp.float32))
    assert bool(jnp.isfinite(gradient).all())
    assert bool((gradient != 0).any())


@pytest.mark.parametrize("certain", [[0], [1, 3], [0, 1, 2, 3]])
def test_a_loop_over_columns_is_the_unrolled_algebra(certain, monkeypatch):
    """Its gradients, too, and what is certain."""
    tril = factors(4)
    covariance = tril @ tril.mT
    covariance[:, certain] = covariance[:, :, certain] = 0
    b = jnp.asarray(RNG.standard_normal((7, 4)), jnp.float32)

    def value(covariance):
        low = small_matrices.cholesky(covariance)
        return jnp.cos(small_matrices.gram(low)).sum() + small_matrices.solve_lower(low + jnp.eye(4), b).sum(), low

    def gradient_and_factor():
        return jax.jit(jax.grad(lambda c: value(c), has_aux=True))(jnp.asarray(covariance, jnp.float32))

    expected = gradient_and_factor()
    monkeypatch.setattr(small_matrices, "_MAX_UNROLLED", 3)
    for ours, theirs in zip(gradient_and_factor(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
