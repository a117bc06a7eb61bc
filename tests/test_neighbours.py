"""Nearest neighbours against a plain search in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax.evaluation import neighbours

RNG = np.random.default_rng(0)
QUERIES, REFERENCES = RNG.normal(size=(7, 4, 3)), RNG.normal(size=(50, 4, 3))


def search(queries, references, num):
    q, r = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (queries, references))
    distance = np.sqrt(((q[:, None] - r) ** 2).sum(-1))
    index = distance.argsort(1)[:, :num]
    return index, np.take_along_axis(distance, index, 1)


@pytest.mark.parametrize("num", [1, 3, 50])
@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray])
def test_neighbours_agree_with_a_plain_search(num, asarray):
    index, distance = search(QUERIES, REFERENCES, num)
    found = neighbours.nearest(asarray(QUERIES), asarray(REFERENCES), num)
    np.testing.assert_array_equal(found.indices, index)
    np.testing.assert_allclose(found.distances, distance, rtol=1e-5)
    assert found.indices.dtype == np.int64
    assert found.distances.dtype == np.float32


def test_chunks_change_nothing(monkeypatch):
    whole = neighbours.nearest(QUERIES, REFERENCES, 5)
    for rows, numbers in ((3, 2**22), (1024, 12 * 4), (1, 1)):
        monkeypatch.setattr(neighbours, "_MAX_ROWS", rows)
        monkeypatch.setattr(neighbours, "_MAX_NUMBERS", numbers)
        found = neighbours.nearest(QUERIES, REFERENCES, 5)
        np.testing.assert_array_equal(found.indices, whole.indices)
        np.testing.assert_allclose(found.distances, whole.distances, rtol=1e-6)


def test_bytes_and_bits_are_compared_as_numbers():
    queries, references = (RNG.integers(0, 256, (n, 8, 8), np.uint8) for n in (5, 40))
    found = neighbours.nearest(queries, references, 2)
    index, distance = search(queries, references, 2)
    np.testing.assert_array_equal(found.indices, index)
    np.testing.assert_allclose(found.distances, distance, rtol=1e-6)
    bits = np.array([[True, False], [True, True]])
    np.testing.assert_array_equal(neighbours.nearest(bits, bits[::-1]).indices[:, 0], [1, 0])


def test_a_copy_is_found_at_distance_zero():
    # Far from the origin and close together: |a|^2 + |b|^2 - 2 ab in float32 would be lost here.
    references = (1000 + RNG.normal(size=(3000, 20))).astype(np.float32)
    found = neighbours.nearest(references[[5, 2999]], references, 2)
    np.testing.assert_array_equal(found.indices[:, 0], [5, 2999])
    np.testing.assert_array_equal(found.distances[:, 0], 0)
    assert (found.distances[:, 1] > 0).all()


@pytest.mark.parametrize(
    ("queries", "references", "num", "words"),
    [
        (QUERIES, REFERENCES[:, :3], 1, "queries: shape .*7, 4, 3.*50, 3, 3"),
        (QUERIES[:0], REFERENCES, 1, "queries: empty"),
        (QUERIES, REFERENCES[:0], 1, "num: .*from 1 to 0.*got 1"),
        (QUERIES, REFERENCES, 0, "num: .*got 0"),
        (QUERIES, REFERENCES, 51, "num: .*from 1 to 50.*got 51"),
        (QUERIES, np.where(np.arange(50)[:, None, None] == 7, np.nan, REFERENCES), 1, "references: .*finite.*nan"),
        (np.sign(QUERIES) * np.inf, REFERENCES, 1, "queries: .*finite.*-inf to inf"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(queries, references, num, words):
    with pytest.raises(ValueError, match=words) as error:
        neighbours.nearest(queries, references, num)
    assert "\n" not in str(error.value)
