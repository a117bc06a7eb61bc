"""The Frechet distance against closed forms, SciPy and fresh draws."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.image_quality import frechet
from examples.image_quality.frechet import Moments

RNG = np.random.default_rng(0)
SEEDS = st.integers(0, 2**32 - 1)
DIMENSIONS = st.integers(1, 12)


def law(rng, dim, rank=None):
    """A normal law whose eigenvalues span three decades."""
    turned = rotation(rng, dim)[:, :rank]
    covariance = (turned * 10.0 ** rng.uniform(-2, 1, turned.shape[1])) @ turned.T
    return Moments(rng.normal(size=dim), (covariance + covariance.T) / 2)


def rotation(rng, dim):
    return scipy.stats.special_ortho_group.rvs(dim, random_state=rng) if dim > 1 else np.ones((1, 1))


def by_sqrtm(a, b):
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    return ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root.real)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, dim=DIMENSIONS)
def test_laws_that_do_not_commute_agree_with_scipy(seed, dim):
    rng = np.random.default_rng(seed)
    a, b = law(rng, dim), law(rng, dim)
    assert frechet.squared_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-8)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, dim=DIMENSIONS)
def test_laws_that_commute_agree_with_the_closed_form(seed, dim):
    rng = np.random.default_rng(seed)
    turned, (sd_a, sd_b) = rotation(rng, dim), rng.uniform(0.1, 3, (2, dim))
    a, b = (Moments(rng.normal(size=dim), (turned * sd**2) @ turned.T) for sd in (sd_a, sd_b))
    expected = ((a.mean - b.mean) ** 2).sum() + ((sd_a - sd_b) ** 2).sum()
    assert frechet.squared_distance(a, b) == pytest.approx(expected, rel=1e-10)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, dim=DIMENSIONS, data=st.data())
def test_it_is_the_square_of_a_metric_at_any_rank(seed, dim, data):
    rng = np.random.default_rng(seed)
    a, b, c = (law(rng, dim, data.draw(st.integers(1, dim))) for _ in range(3))
    ab, ba, bc, ac = (frechet.squared_distance(*pair) for pair in ((a, b), (b, a), (b, c), (a, c)))
    assert ab == pytest.approx(ba, rel=1e-9)
    assert frechet.squared_distance(a, a) < 1e-20
    assert np.sqrt(ac) <= np.sqrt(ab) + np.sqrt(bc) + 1e-9
    turned = rotation(rng, dim)
    turned_a, turned_b = (Moments(turned @ x.mean, turned @ x.covariance @ turned.T) for x in (a, b))
    assert frechet.squared_distance(turned_a, turned_b) == pytest.approx(ab, rel=1e-6)
    scaled_a, scaled_b = (Moments(3 * x.mean, 9 * x.covariance) for x in (a, b))
    assert frechet.squared_distance(scaled_a, scaled_b) == pytest.approx(9 * ab, rel=1e-6)


def test_points_and_planes():
    point = Moments(np.array([1.0, 2.0, 0.0]), np.zeros((3, 3)))
    plane = Moments(np.zeros(3), np.diag([4.0, 1.0, 0.0]))
    assert frechet.squared_distance(point, plane) == pytest.approx(5 + 5)
    assert frechet.squared_distance(point, point) == 0
    # In planes at right angles that share one axis.
    other = Moments(np.zeros(3), np.diag([9.0, 0.0, 1.0]))
    assert frechet.squared_distance(plane, other) == pytest.approx(1 + 1 + 1)
    # An eigenvalue that rounding has made negative.
    other.covariance[1, 1] = -1e-17
    assert frechet.squared_distance(plane, other) == pytest.approx(3)


def test_nothing_cancels_between_laws_that_are_close():
    close = Moments(np.zeros(4), np.eye(4) * (1 + 1e-9) ** 2)
    assert frechet.squared_distance(Moments(np.zeros(4), np.eye(4)), close) == pytest.approx(4e-18, rel=1e-5)


def test_moments_are_those_of_numpy():
    rows = RNG.normal(size=(30, 5)).astype(np.float32)
    found = frechet.moments(rows)
    np.testing.assert_allclose(found.mean, rows.mean(0, dtype=np.float64))
    np.testing.assert_allclose(found.covariance, np.cov(rows.astype(np.float64).T), atol=1e-15)


SD, SHIFT = np.linspace(0.5, 2, 8), 0.3
DISTANCE = 8 * SHIFT**2 + ((SD - 1) ** 2).sum()


def pair(rng, num_a, num_b):
    return rng.normal(size=(num_a, 8)) * SD + SHIFT, rng.normal(size=(num_b, 8))


def test_error_and_bias_are_those_of_fresh_draws():
    rng = np.random.default_rng(1)
    found = [frechet.distance(*pair(rng, 600, 400)) for _ in range(100)]
    value, stderr, bias = (np.array([getattr(f, name) for f in found]) for name in ("value", "stderr", "bias"))
    # The spread of 100 draws is right to 7 %, the mean to a tenth of a spread.
    assert np.sqrt((stderr**2).mean()) == pytest.approx(value.std(ddof=1), rel=0.25)
    assert abs((value - bias).mean() - DISTANCE) < 0.4 * value.std()
    assert value.mean() > DISTANCE
    assert (found[0].num_a, found[0].num_b) == (600, 400)


def test_bias_between_samples_of_one_law_is_as_the_module_says():
    rng, dim, num = np.random.default_rng(2), 16, 500
    found = [frechet.distance(*rng.normal(size=(2, num, dim))) for _ in range(20)]
    expected = dim * (dim + 5) / (2 * num)
    assert np.mean([f.value for f in found]) == pytest.approx(expected, rel=0.1)
    assert np.mean([f.bias for f in found]) == pytest.approx(expected, rel=0.1)


def test_many_samples_come_to_the_distance_of_their_laws():
    found = frechet.distance(*pair(RNG, 100_000, 100_000))
    assert abs(found.value - found.bias - DISTANCE) < 5 * found.stderr
    assert found.stderr < 0.02 * DISTANCE


def test_fewer_samples_than_features_are_enough():
    found = frechet.distance(RNG.normal(size=(5, 12)), RNG.normal(size=(3, 12)) + 1)
    assert np.isfinite(found).all()
    assert found.value > 0


def test_order_of_the_samples_does_not_matter_to_the_value():
    a, b = pair(RNG, 300, 300)
    one, other = frechet.distance(a, b), frechet.distance(a[a[:, 0].argsort()], b[b[:, 1].argsort()])
    assert one.value == pytest.approx(other.value, rel=1e-12)


GOOD = RNG.normal(size=(10, 4))


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (GOOD, GOOD[:, :3], "features_b: 3 features, but features_a have 4"),
        (GOOD[:2], GOOD, "features_a: at least 3 samples are needed, got 2"),
        (GOOD, GOOD[:0], "features_b: at least 3 .*got 0"),
        (GOOD[0], GOOD, r"features_a: .*shape \(4,\)"),
        (GOOD[:, :0], GOOD, "features_a: .*shape"),
        (GOOD, np.where(GOOD[3, 1] == GOOD, np.nan, GOOD), "features_b: values must be finite"),
    ],
)
def test_bad_features_are_refused_in_one_line(a, b, words):
    with pytest.raises(ValueError, match=words) as error:
        frechet.distance(a, b)
    assert "\n" not in str(error.value)


def test_too_few_for_moments_are_refused():
    with pytest.raises(ValueError, match="features: at least 2 samples are needed, got 1"):
        frechet.moments(GOOD[:1])
