"""Random orders."""

import jax
import numpy as np
import pytest
from scipy.stats import chi2

from dpm_jax.numerics import shuffle


@pytest.mark.parametrize("num", [1, 2, 3, 5, 512, 513, 1000, 1024, 70_000])
def test_holds_each_number_once(num: int) -> None:
    found = jax.jit(shuffle.order, static_argnums=1)(jax.random.key(num), num)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(np.sort(found), np.arange(num))


def test_every_order_is_as_likely() -> None:
    """All 24 orders of four, by a chi-square test."""
    draws = 24_000
    orders = jax.vmap(lambda key: shuffle.order(key, 4))(jax.random.split(jax.random.key(0), draws))
    _, counts = np.unique(np.asarray(orders), axis=0, return_counts=True)
    assert len(counts) == 24
    expected = draws / 24
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, 23)
