"""Estimates, the keys that they have in files, and the tables of them."""

import json
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dpm_jax.evaluation.estimate import Estimate, keyed
from dpm_jax.evaluation.table import aligned
from dpm_jax.training.storage import json_text

VALUES = np.random.default_rng(0).normal(3, 2, (4, 50))


def test_the_standard_error_is_that_of_scipy():
    for found, values in ((Estimate.of(VALUES), VALUES), (Estimate.of(VALUES[2]), VALUES[2])):
        np.testing.assert_allclose(found.mean, values.mean(-1), rtol=1e-12)
        np.testing.assert_allclose(found.stderr, scipy.stats.sem(values, axis=-1), rtol=1e-12)
    one = Estimate.of(VALUES).at(-1)
    assert one == pytest.approx((VALUES[3].mean(), scipy.stats.sem(VALUES[3])), rel=1e-12)


def test_float32_is_summed_in_float64():
    values = jnp.asarray([2.0**24, 1.0, 1.0, 1.0], jnp.float32)
    assert Estimate.of(values).mean == (2.0**24 + 3) / 4


def test_what_is_unknown_is_none():
    assert Estimate.of(None) == Estimate() == (None, None)
    assert Estimate.of([5.0]) == (5, None)
    assert Estimate.of([1.0, np.inf]) == (np.inf, None)
    assert Estimate().at(3) == Estimate()
    assert Estimate([7, 8]).at(1) == (8, None)


class Inner(NamedTuple):
    nats: Estimate
    restored: Estimate


class Outer(NamedTuple):
    gap_bits: Estimate
    discrete_bits_per_dim: Estimate
    bits_per_dim: Estimate
    inner: Inner
    rows: list
    limit_bits: float | None


def test_an_estimate_is_two_keys_of_a_file_wherever_it_is():
    inner = Inner(Estimate.of([1.0, 3.0]), Estimate(np.array([1.0, 2.0]), np.array([0.5, np.nan])))
    report = Outer(
        Estimate(), Estimate(4.0, 0.25), Estimate(5.0), inner, [inner, inner._replace(nats=Estimate())], None
    )
    written = {"nats": 2, "stderr_nats": 1, "restored": [1, 2], "restored_stderr": [0.5, None]}
    assert json.loads(json_text(keyed(report))) == {
        **{"gap_bits": None, "gap_stderr_bits": None, "discrete_bits_per_dim": 4, "discrete_stderr": 0.25},
        **{"bits_per_dim": 5, "bits_per_dim_stderr": None, "limit_bits": None, "inner": written},
        "rows": [written, written | {"nats": None, "stderr_nats": None}],
    }


def test_a_table_aligns_numbers_on_their_points_and_leaves_out_what_is_unknown():
    rows = [
        ("K", Estimate(-2.73331, 0.01234)),
        ("limit of the data", 102.5),
        ("gap", None),
        ("gain", Estimate()),
        ("psnr", Estimate(np.inf)),
    ]
    assert aligned("bits/point", rows).splitlines() == [
        "bits/point",
        "  K                    -2.7333 +- 0.0123",
        "  limit of the data   102.5000",
        "  psnr                     inf",
    ]


def test_a_table_of_several_columns_has_a_header():
    rows = [(5, "all", Estimate(1.25, 0.1), "100.0%"), (250, "uniform", Estimate(-10.5, 0.1), " 99.5%")]
    assert aligned("K", rows, ("steps", "spacing", "K", "share"), ".2f").splitlines() == [
        "K",
        "   steps spacing                  K share",
        "       5 all           1.25 +- 0.10 100.0%",
        "     250 uniform     -10.50 +- 0.10  99.5%",
    ]
