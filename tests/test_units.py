"""Conversions, on cases done by hand."""

import math

import numpy as np
import pytest

from dpm_jax import units


def test_bits_and_nats():
    assert units.bits(math.log(8)) == pytest.approx(3)
    assert units.nats(3) == pytest.approx(math.log(8))
    assert units.bits_per_dimension(12 * math.log(2), (2, 3)) == pytest.approx(2)


def test_pixels_are_what_k_is_counted_by():
    assert units.num_parts((32, 32, 3)) == 1024
    assert units.num_parts((7,)) == 1
    assert units.bits_per_part(6 * math.log(2), (2, 3, 3)) == pytest.approx(1)
    assert units.bits_per_part(np.float32([2, 4]) * math.log(2), (7,)) == pytest.approx([2, 4])


def test_uniform_pixels_take_eight_bits():
    # v uniform on 0..255: v + u is uniform on [0, 256), x on an interval of 256 / scale, K = -log(256 / scale) a pixel.
    scale = 256 / math.sqrt(12)
    shape = (4, 4, 3)
    k = -48 * math.log(256 / scale)
    assert units.discrete_bits_per_dimension(k, scale, shape) == pytest.approx(8)


def test_a_fair_coin_takes_one_bit():
    # Two of the 256 values, equally likely: density 1/2 on either step of width 1 / scale in x.
    assert units.discrete_bits_per_dimension(math.log(0.5 * 30.0), 30.0, (1, 1, 1)) == pytest.approx(1)


def test_scales_of_their_own_are_averaged_in_logarithms():
    scale = np.asarray([2.0, 8.0])
    k = np.asarray([0.0, 2 * math.log(2)])
    np.testing.assert_allclose(units.discrete_bits_per_dimension(k, scale, (2,)), [2, 1])


def test_the_papers_null_model():
    """-2.047 bits a dimension for the isotropic unit Gaussian on data of unit variance (section 3)."""
    assert units.bits(-0.5 * (math.log(2 * math.pi) + 1)) == pytest.approx(-2.047, abs=5e-4)
