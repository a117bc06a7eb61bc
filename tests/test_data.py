"""Data sources against quadrature, enumeration, and bad files."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

from dpm_jax.data import arrays, heartbeat, sources, standardization, swiss_roll
from dpm_jax.errors import UserError
from dpm_jax.training import build, workdir
from dpm_jax.training import config as config_lib

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
    x = fitted.centres(raw)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(0), 1, rtol=1e-5)
    np.testing.assert_allclose(fitted.invert(x), raw, rtol=1e-5)


def test_large_offsets_are_taken_off_in_float64():
    raw = np.random.default_rng(0).normal([1.7e9, -4.5e6], [30, 0.1], (1000, 2))
    fitted = standardization.fit(raw)
    x = fitted.centres(raw)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, (raw - raw.mean(0)) / raw.std(0), rtol=1e-6, atol=1e-7)
    back = fitted.invert(jnp.asarray(x))
    assert back.dtype == np.float64
    np.testing.assert_allclose(back - raw, 0, atol=1e-6 * 30)


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1e30, 1e200])
def test_moments_of_numbers_of_any_size(size):
    raw = size * np.random.default_rng(0).normal(1, 2, (500, 2))
    x = standardization.fit(raw).centres(raw)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(0), 1, rtol=1e-6)


def columns(*extra):
    """Two normal columns, and these beside them."""
    return np.stack([*np.random.default_rng(0).normal(0, 1, (2, 1000)), *extra], axis=1)


@pytest.mark.parametrize(
    "column",
    [
        np.full(1000, 14.62),  # whose standard deviation in float64 is 1e-13
        np.full(1000, 7.0),
        np.where(np.arange(1000) % 3, 0.1 + 0.2, 0.3),
    ],
)
def test_constant_columns_are_refused_or_left_out(column):
    raw = columns(column)
    with pytest.raises(ValueError, match=r"column 2 is constant, .* --config\.data\.file\.constant_columns=leave_out"):
        standardization.fit(raw)
    fitted = standardization.fit(raw, leave_out=True)
    x = fitted.centres(raw)
    np.testing.assert_array_equal(x, standardization.fit(raw[:, :2]).centres(raw[:, :2]))
    assert fitted.constants == {2: column[0]}
    back = fitted.invert(x)
    np.testing.assert_allclose(back, raw, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(back[:, 2], column[0])
    np.testing.assert_array_equal(fitted.invert(x.reshape(10, 100, 2)).reshape(1000, 3), back)


def test_what_float32_rounded_to_one_number_is_constant():
    with pytest.raises(ValueError, match="column 2 is constant"):
        standardization.fit(columns(1.7e9 + np.random.default_rng(1).normal(0, 30, 1000)).astype(np.float32))
    with pytest.raises(ValueError, match="every column is constant"):
        standardization.fit(np.ones((5, 2)), leave_out=True)


def test_columns_of_integers_are_dequantised(tmp_path):
    counts = np.random.default_rng(1).poisson(3.0, 1000).astype(float)
    raw = columns(counts)
    whole = arrays.integers(raw)
    assert whole.tolist() == [False, False, True]
    fitted = standardization.fit(raw, whole)
    centres = fitted.centres(raw)
    x = np.asarray(fitted.spread(KEY, jnp.asarray(centres)))
    np.testing.assert_array_equal(x[:, :2], centres[:, :2])
    np.testing.assert_array_equal(fitted.invert(x)[:, 2], counts)
    np.testing.assert_allclose([x[:, 2].mean(), x[:, 2].std()], [0, 1], atol=0.02)
    noise = (x - centres)[:, 2] * fitted.scale[2]
    assert abs(noise.mean()) < 5 / np.sqrt(12 * 1000)
    assert abs(noise.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / 1000)
    source = sources.vector_source(tmp_path / "x.npy", raw, 0.5, binary=False, integers=whole)
    for drawn in (source.supply(KEY, 500), source.held_out(KEY, 500)):
        assert set(source.standardization.invert(drawn)[:, 2]) <= set(counts)


def open_file(path, **changes):
    config = config_lib.default()
    fields = {f"data.file.{name}": value for name, value in changes.items()}
    config.update_from_flattened_dict({"data.name": "file", "data.file.path": str(path), **fields})
    said = []
    return build.source(config, report=said.append), said


def test_what_is_taken_for_integers_is_said_and_can_be_refused(tmp_path):
    np.save(tmp_path / "x.npy", columns(np.arange(1000.0) % 7))
    source, said = open_file(tmp_path / "x.npy")
    assert said[0] == f"data: 1000 rows of 3 from {tmp_path / 'x.npy'}"
    assert said[1].startswith("data: columns 2 hold integers only")
    assert "--config.data.file.integers=real" in said[1]
    assert source.standardization.step.tolist() == [0, 0, 1]
    source, said = open_file(tmp_path / "x.npy", integers="real")
    assert len(said) == 1
    assert not source.standardization.step.any()


def test_outliers_are_refused_wherever_they_are(tmp_path):
    for row in (3, 700):
        for value in (1e25, -1e42, 1e308):
            raw = columns(np.arange(1000.0) % 2)
            raw[row, 1] = value
            np.save(tmp_path / "x.npy", raw)
            with pytest.raises(ValueError, match=rf"x\.npy holds {re.escape(f'{value:g}')} in row {row}, column 1"):
                arrays.load(tmp_path / "x.npy")
    heavy = np.random.default_rng(0).standard_cauchy((20_000, 2))  # up to 30 000 times the spread
    rare = np.zeros((20_000, 1))
    rare[77] = 1e9
    np.save(tmp_path / "x.npy", np.concatenate([heavy, rare], axis=1))
    assert arrays.load(tmp_path / "x.npy").shape == (20_000, 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2\n3,4.5\n", [[1, 2], [3, 4.5]]),
        ("height,weight\n1,2\n3,4e3\n", [[1, 2], [3, 4000]]),
        ('\ufeff"a b","c"\n"1","2"\n3,4\n', [[1, 2], [3, 4]]),
    ],
)
def test_tables_are_read(tmp_path, text, expected):
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    np.testing.assert_array_equal(arrays.load(tmp_path / "x.csv"), expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [("a,b\n1,2\n3,x\n", "'x'"), ("1,2\n3\n", "columns"), ("", "shape"), ("1;2\n3;4\n", "'3;4'")],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_tables_of_anything_else_are_refused(tmp_path, text, words):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=r"x\.csv") as error:
        arrays.load(tmp_path / "x.csv")
    assert words in str(error.value)


def test_file_source_splits_without_overlap(tmp_path):
    data = np.arange(40, dtype=np.float64).reshape(20, 2) + 0.25
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
        (np.array([[1.0, np.nan], [0.0, 1.0]]), "NaN or infinity, first in row 0, column 1"),
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


# --- What a workdir remembers ---


def vectors(path, raw):
    np.save(path, raw)
    return open_file(path, constant_columns="leave_out")[0]


def test_data_are_compared_in_units_of_the_scale_and_described_once(tmp_path):
    raw = np.random.default_rng(0).normal([1.7e9, 1e-3], [30, 1e-9], (500, 2))
    config = config_lib.default()
    workdir.claim(tmp_path / "run", config, vectors(tmp_path / "x.npy", raw))
    before = (tmp_path / "run" / "data.json").read_bytes()
    workdir.claim(tmp_path / "run", config, vectors(tmp_path / "x.npy", raw + np.array([1e-3, 1e-14])))
    assert (tmp_path / "run" / "data.json").read_bytes() == before
    for shift in ([30, 0], [0, 1e-9]):
        with pytest.raises(UserError, match="trained on other data: their mean differs by"):
            workdir.claim(tmp_path / "run", config, vectors(tmp_path / "x.npy", raw + np.array(shift)))
    middle = arrays.split(raw, 0.1).train.mean(0)
    with pytest.raises(UserError, match=r"their scale differs by 0\.0\d+ of the scale in column"):
        workdir.claim(tmp_path / "run", config, vectors(tmp_path / "x.npy", middle + 1.01 * (raw - middle)))


def test_what_was_left_out_and_what_are_integers_is_remembered(tmp_path):
    raw = columns(np.full(1000, 14.62), np.arange(1000.0) % 7)
    source = vectors(tmp_path / "x.npy", raw)
    assert source.shape == (3,)
    workdir.claim(tmp_path / "run", config_lib.default(), source)
    description = workdir.read(tmp_path / "run")
    assert description.shape == (3,)
    x = source.held_out(KEY, 50)
    samples = description.standardization.invert(x)
    np.testing.assert_array_equal(samples, source.standardization.invert(x))
    assert {tuple(row) for row in samples[:, 2:]} <= {tuple(row) for row in raw[:, 2:]}
    real = open_file(tmp_path / "x.npy", constant_columns="leave_out", integers="real")[0]
    with pytest.raises(UserError, match=r"other columns taken for integers: config\.data\.file\.integers"):
        workdir.check_source(description, real, tmp_path / "run")
    with pytest.raises(UserError, match=r"without the columns \{2: 14\.62\}, now \{2: 15\.0\}"):
        workdir.check_source(
            description, vectors(tmp_path / "x.npy", raw + np.array([0, 0, 0.38, 0])), tmp_path / "run"
        )


def test_an_older_config_takes_integers_for_real_numbers(tmp_path):
    tree = config_lib.default().to_dict()
    del tree["data"]["file"]["integers"], tree["data"]["file"]["constant_columns"]
    (tmp_path / "config.json").write_text(json.dumps(tree))
    assert config_lib.load(tmp_path / "config.json").data.file.integers == "real"
