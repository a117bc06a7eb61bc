"""The unrolled generator gives the numbers of JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax.numerics.threefry import unrolled

DRAWS = {
    "bits": lambda key: jax.random.bits(key, (3, 5, 2)),
    "bytes": lambda key: jax.random.bits(key, (9,), jnp.uint8),
    "one number": jax.random.uniform,
    "normal": lambda key: jax.random.normal(key, (7, 3)),
    "none": lambda key: jax.random.normal(key, (0, 3)),
    "randint": lambda key: jax.random.randint(key, (5,), 0, 7),
    "permutation": lambda key: jax.random.permutation(key, 10),
    "categorical": lambda key: jax.random.categorical(key, jnp.arange(5.0), shape=(4,)),
    "split": lambda key: jax.random.key_data(jax.random.split(key, (3, 2))),
    "fold in": lambda key: jax.random.key_data(jax.random.fold_in(key, 5)),
    "fold in the largest": lambda key: jax.random.key_data(jax.random.fold_in(key, 2**32 - 1)),
    "fold in a negative": lambda key: jax.random.key_data(jax.random.fold_in(key, jnp.int32(-3))),
    "a key an example": lambda key: jax.vmap(lambda k, i: jax.random.normal(jax.random.fold_in(k, i), (4,)))(
        jax.random.split(key, 5), jnp.arange(5)
    ),
    "in a scan": lambda key: jax.lax.scan(
        lambda k, i: (jax.random.split(k)[0], jax.random.normal(jax.random.fold_in(k, i), (4,))), key, jnp.arange(3)
    )[1],
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("seed", [0, 2**31])
def test_gives_the_numbers_of_jax(name: str, seed: int) -> None:
    draw, key = DRAWS[name], jax.random.key(seed)
    np.testing.assert_array_equal(draw(unrolled(key)), draw(key))
    np.testing.assert_array_equal(jax.jit(lambda key: draw(unrolled(key)))(key), draw(key))


def test_gives_the_64_bit_numbers_of_jax() -> None:
    with jax.enable_x64(True):
        key = jax.random.key(1)
        np.testing.assert_array_equal(
            jax.random.bits(unrolled(key), (5,), "uint64"), jax.random.bits(key, (5,), "uint64")
        )


def test_takes_arrays_of_keys_and_its_own() -> None:
    keys = jax.random.split(jax.random.key(0), (2, 3))
    again = unrolled(unrolled(keys))
    assert again.shape == (2, 3)
    np.testing.assert_array_equal(jax.random.key_data(again), jax.random.key_data(keys))


def test_leaves_other_generators_alone() -> None:
    for key in (jax.random.key(0, impl="rbg"), jax.random.PRNGKey(0)):
        assert unrolled(key).dtype == key.dtype
    with jax.threefry_partitionable(False):
        key = jax.random.key(0)
        assert unrolled(key).dtype == key.dtype


def test_refuses_more_numbers_than_it_can_count() -> None:
    with pytest.raises(ValueError, match="at most 2\\^32 numbers of one key, got 8589934592"):
        jax.jit(lambda: jax.random.bits(unrolled(jax.random.key(0)), (2**16, 2**17))).lower()
