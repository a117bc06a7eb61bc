"""Data sources against quadrature, enumeration, and bad files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

from dpm_jax.data import arrays, heartbeat, sources, standardization, swiss_roll

KEY = jax.random.key(0)


def reference_log_density(x: np.ndarray, noise: float) -> float:
    """log p(x) by a dense trapezoid in float64, from the roll's definition."""
    theta = 1.5 * np.pi * (1 + 2 * np.linspace(0, 1, 400_001))
    raw = np.stack([theta * np.cos(theta), theta * np.sin(theta)], 1)
    mean = scipy.integrate.trapezoid(raw, dx=1 / 400_000, axis=0)
    std = np.sqrt(scipy.integrate.trapezoid((raw - mean) ** 2, dx=1 / 400_000, axis=0))
    distance2 = (((x - (raw - mean) / std) / noise) ** 2).sum(1)
    weights = np.full(len(theta), 1 / 400_000)
    weights[[0, -1]] /= 2
    return float(scipy.special.logsumexp(-0.5 * distance2, b=weights) - np.log(2 * np.pi * noise**2))


@pytest.mark.parametrize("noise", [0.0035, 0.05, 0.5])
def test_roll_density_agrees_with_a_dense_sum_to_1e_4(noise):
    x = np.asarray(swiss_roll.sample(KEY, 12, noise))
    ours = swiss_roll.log_prob(jnp.asarray(x), noise, swiss_roll.quadrature(noise))
    for point, value in zip(x, ours, strict=True):
        assert abs(float(value) - reference_log_density(point.astype(float), noise)) < 1e-4


def test_roll_density_integrates_to_one():
    noise = 0.3
    line = jnp.linspace(-4, 4, 161)
    grid = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    density = jnp.exp(swiss_roll.log_prob(grid, noise, swiss_roll.quadrature(noise)))
    np.testing.assert_allclose(float(density.sum()) * (8 / 160) ** 2, 1, atol=1e-3)


def test_roll_has_zero_mean_unit_variance_and_the_known_limit():
    x = swiss_roll.sample(KEY, 100_000, 0.0035)
    assert x.shape == (100_000, 2)
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x.mean(0), 0, atol=4 / np.sqrt(100_000))
    np.testing.assert_allclose(x.var(0), 1, atol=0.02)
    nodes = swiss_roll.quadrature(0.0035)
    limit = float(swiss_roll.mean_log_prob(0.0035, nodes)) / np.log(2)
    sampled = np.asarray(swiss_roll.log_prob(x[:20_000], 0.0035, nodes)) / np.log(2)
    assert abs(limit - sampled.mean()) < 4 * sampled.std() / np.sqrt(20_000)
    assert limit == pytest.approx(2.450, abs=0.01)


def test_heartbeats():
    x = heartbeat.sample(KEY, 5000, 20, 5)
    assert x.shape == (5000, 20)
    np.testing.assert_array_equal(x.sum(1), 4)
    np.testing.assert_array_equal(x[:, :-5], x[:, 5:])
    assert abs(float(x[:, 0].mean()) - 0.2) < 4 * 0.4 / np.sqrt(5000)
    log_p = heartbeat.log_prob(jnp.concatenate([x[:2], jnp.ones((1, 20))]), 20, 5)
    np.testing.assert_allclose(log_p, [-np.log(5), -np.log(5), -np.inf], rtol=1e-6)


def test_standardization_round_trip():
    raw = np.random.default_rng(0).normal(5, 3, (200, 2)).astype(np.float32)
    fitted = standardization.fit(raw)
    x = fitted.apply(raw)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(0), 1, rtol=1e-5)
    np.testing.assert_allclose(fitted.invert(x), raw, rtol=1e-5)
    with pytest.raises(ValueError, match="coordinate 1"):
        standardization.fit(np.array([[1.0, 2.0], [3.0, 2.0]]))


def test_large_offsets_are_taken_off_in_float64():
    raw = 1e8 + np.random.default_rng(0).normal(0, 1, (1000, 1))
    x = standardization.fit(raw).apply(raw)
    assert x.dtype == np.float32
    assert len(np.unique(x)) > 990


def test_file_source_splits_without_overlap(tmp_path):
    data = np.arange(40, dtype=np.float64).reshape(20, 2)
    np.savez(tmp_path / "a.npz", samples=data)
    source = sources.vector_source(tmp_path / "a.npz", arrays.load(tmp_path / "a.npz"), 0.25, binary=False)
    assert source.shape == (2,)
    assert source.num_held_out == 5
    kept = source.standardization.invert(source.held_out(KEY, 5))
    drawn = source.standardization.invert(source.supply(KEY, 1000))
    kept_rows, train_rows = ({round(float(v)) for v in rows[:, 0]} for rows in (kept, drawn))
    assert len(kept_rows) == 5
    assert kept_rows.isdisjoint(train_rows)
    assert kept_rows | train_rows == set(range(0, 40, 2))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.array([[1.0, np.nan], [0.0, 1.0]]), "NaN or infinity, first in row 0"),
        (np.zeros(5), "shape (5,)"),
        (np.zeros((1, 2)), "N >= 2"),
        (np.array([["a", "b"], ["c", "d"]]), "real numbers"),
        (np.array([[{}], [{}]], dtype=object), "cannot read"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, words):
    path = tmp_path / "bad.npy"
    np.save(path, content, allow_pickle=True)
    with pytest.raises(ValueError, match=r"bad\.npy") as error:
        arrays.load(path)
    assert words in str(error.value)


def test_missing_truncated_and_unlabelled_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read"):
        arrays.load(tmp_path / "none.npy")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="cannot read"):
        arrays.load(tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", points=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="no key 'samples' among"):
        arrays.load(tmp_path / "other.npz")


def test_bits_are_checked_for_the_binomial_kernel(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[0.0, 2.0], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="other values than 0 and 1"):
        sources.vector_source(tmp_path / "x.npy", arrays.load(tmp_path / "x.npy"), 0.5, binary=True)
