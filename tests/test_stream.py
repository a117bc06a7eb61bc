"""The order of images: a function of seed and step, the same for any number of processes."""

import itertools

import numpy as np
import pytest

from dpm_jax.data import stream
from dpm_jax.data.image_set import ImageSet
from tests.real_data import needs_grain

pytestmark = needs_grain

IMAGES = np.arange(50, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 4, 4, 1), np.uint8)
WHOLE = ImageSet(IMAGES, IMAGES[:1], None)
PATTERN = np.random.default_rng(0).integers(0, 256, (3, 30, 40, 1)).astype(np.uint8)
CROPS = ImageSet(PATTERN, PATTERN[:1], 6)


def take(images, num, **settings):
    return list(itertools.islice(stream.batches(images, **{"seed": 7, "batch_size": 8, **settings}), num))


@pytest.mark.parametrize("images", [WHOLE, CROPS])
@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_shares_of_all_processes_are_the_batch_of_one(images, num_processes):
    alone = take(images, 20)
    shares = [take(images, 20, process=p, num_processes=num_processes) for p in range(num_processes)]
    for batch, parts in zip(alone, zip(*shares, strict=True), strict=True):
        assert all(len(part) == 8 // num_processes for part in parts)
        np.testing.assert_array_equal(batch, np.concatenate(parts))


@pytest.mark.parametrize("images", [WHOLE, CROPS])
def test_going_on_from_a_step_is_the_same_stream(images):
    whole = take(images, 15)
    for step in (1, 7, 14):
        for ours, theirs in zip(take(images, 15 - step, step=step), whole[step:], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_an_epoch_sees_every_image_once_and_the_next_in_another_order():
    seen = np.concatenate(take(WHOLE, 50))[:, 0, 0, 0]  # 8 epochs of 50
    epochs = seen.reshape(8, 50)
    for epoch in epochs:
        assert sorted(epoch) == list(range(50))
    assert len({tuple(epoch) for epoch in epochs}) == 8


@pytest.mark.parametrize("images", [WHOLE, CROPS])
def test_the_seed_matters(images):
    assert any((a != b).any() for a, b in zip(take(images, 3), take(images, 3, seed=8), strict=True))


def test_crops_are_uniform():
    counts = np.zeros((3, 30, 40))
    where = {
        PATTERN[i, y : y + 6, x : x + 6].tobytes(): (i, y, x) for i in range(3) for y in range(25) for x in range(35)
    }
    crops = np.concatenate(take(CROPS, 800))
    for crop in crops:
        counts[where[crop.tobytes()]] += 1
    used = counts[:, :25, :35]
    expected = len(crops) / used.size
    chi2 = ((used - expected) ** 2 / expected).sum()
    # Normal approximation of chi-square with 2624 degrees of freedom, 5 standard deviations.
    assert abs(chi2 - (used.size - 1)) < 5 * np.sqrt(2 * used.size)
