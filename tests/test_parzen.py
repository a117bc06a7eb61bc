"""Parzen windows against SciPy in float64 and against normal laws with known answers."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from dpm_jax.evaluation import parzen

RNG = np.random.default_rng(0)
SAMPLES, POINTS = RNG.uniform(size=(60, 5)), RNG.uniform(size=(23, 5))


def reference(samples, points, bandwidth):
    """The same by SciPy, one normal law a sample, in float64."""
    log_p = [scipy.stats.norm.logpdf(points, s, bandwidth).sum(1) for s in samples]
    return scipy.special.logsumexp(log_p, axis=0) - np.log(len(samples))


@pytest.mark.parametrize("bandwidth", [0.02, 0.3, 5.0])
@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray])
def test_log_likelihood_agrees_with_scipy(bandwidth, asarray):
    ours = parzen.log_likelihood(asarray(SAMPLES), asarray(POINTS), bandwidth)
    assert ours.shape == (23,)
    np.testing.assert_allclose(ours, reference(SAMPLES, POINTS, bandwidth), rtol=1e-5, atol=2e-6 / bandwidth**2)


def test_log_likelihood_agrees_with_scipy_in_784_dimensions_and_in_one():
    rng = np.random.default_rng(1)
    samples, points = rng.uniform(size=(40, 784)), rng.uniform(size=(6, 784))
    ours = parzen.log_likelihood(samples, points, 0.1)
    np.testing.assert_allclose(ours, reference(samples, points, 0.1), atol=5e-3)
    # SciPy's own estimate has the data's covariance for a window: ours in one dimension, not in more.
    one = scipy.stats.gaussian_kde(SAMPLES[:, 0], bw_method=0.3)
    h = float(np.sqrt(one.covariance[0, 0]))
    np.testing.assert_allclose(
        parzen.log_likelihood(SAMPLES[:, :1], POINTS[:, :1], h), one.logpdf(POINTS[:, 0]), atol=1e-5
    )


def test_distance_from_the_origin_costs_nothing():
    ours = parzen.log_likelihood(SAMPLES + 1e4, POINTS + 1e4, 0.1)
    np.testing.assert_allclose(ours, parzen.log_likelihood(SAMPLES, POINTS, 0.1), atol=2e-4)


def test_chunks_change_nothing(monkeypatch):
    whole = parzen._log_likelihoods(SAMPLES, POINTS, [0.1, 0.3])
    for rows, numbers in ((7, 2**21), (1024, 5 * 11), (1, 1)):
        monkeypatch.setattr(parzen, "_MAX_ROWS", rows)
        monkeypatch.setattr(parzen, "_MAX_NUMBERS", numbers)
        np.testing.assert_allclose(parzen._log_likelihoods(SAMPLES, POINTS, [0.1, 0.3]), whole, atol=5e-5)


def test_many_samples_of_a_normal_law_give_that_law_widened():
    h, num = 0.3, 20_000
    samples, points = RNG.normal(size=(num, 2)), RNG.normal(size=(50, 2))

    def density(variance):
        return scipy.stats.norm.pdf(points, scale=np.sqrt(variance)).prod(1)

    mean = density(1 + h**2)
    # The square of a window is a window of half the variance.
    square = density(1 + h**2 / 2) / (4 * np.pi * h**2)
    stderr = np.sqrt((square / mean**2 - 1) / num)
    errors = (np.exp(parzen.log_likelihood(samples, points, h)) / mean - 1) / stderr
    # 50 points: a fresh key would fail this with a probability below 1e-3.
    assert np.abs(errors).max() < 4.5


def test_bandwidth_is_the_best_by_plain_search():
    candidates = np.logspace(-1.5, 0, 30)
    means = [reference(SAMPLES, POINTS, h).mean() for h in candidates]
    assert parzen.choose_bandwidth(SAMPLES, POINTS, candidates) == candidates[np.argmax(means)]
    assert 0 < np.argmax(means) < 29
    assert parzen.choose_bandwidth(SAMPLES, POINTS, candidates[::-1]) == candidates[np.argmax(means)]


def test_evaluation_reports_the_test_images_at_the_bandwidth_of_the_validation_images():
    samples, validation, test = (RNG.uniform(size=(n, 2, 2, 1)) for n in (200, 50, 30))
    result = parzen.evaluate(samples, validation, test)
    flat = [a.reshape(len(a), 4) for a in (samples, validation, test)]
    assert result.bandwidth == parzen.choose_bandwidth(flat[0], flat[1])
    values = reference(flat[0], flat[2], result.bandwidth)
    assert result.nats.mean == pytest.approx(values.mean(), abs=1e-4)
    assert result.nats.stderr == pytest.approx(scipy.stats.sem(values), rel=1e-4)
    assert result.bits == pytest.approx(np.divide(result.nats, np.log(2)))
    assert (result.num_samples, result.num_points) == (200, 30)
    assert not result.bandwidth_at_end
    assert parzen.evaluate(samples, validation, test, [0.5, 0.7, 0.9]).bandwidth_at_end


GOOD = np.full((3, 2, 2), 0.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": GOOD[:0]}, "samples: empty"),
        ({"samples": 2 * GOOD + 0.5}, r"samples: .*\[0, 1\], got 1.5 to 1.5"),
        ({"validation": GOOD - 1}, r"validation: .*\[0, 1\], got -0.5"),
        ({"test": np.where(np.arange(3)[:, None, None] == 1, np.nan, GOOD)}, "test: .*got nan"),
        ({"test": GOOD[:, :1]}, "test: 2 values an image, but samples have 4"),
        ({"test": GOOD[:1]}, "test: .*at least 2 images, got 1"),
        ({"candidates": []}, "candidates: "),
        ({"candidates": [0.1, 0.0]}, "bandwidth: .*got 0.0"),
        ({"candidates": [float("nan")]}, "bandwidth: .*got nan"),
    ],
)
def test_bad_images_are_refused_in_one_line(change, words):
    with pytest.raises(ValueError, match=words) as error:
        parzen.evaluate(**({"samples": GOOD, "validation": GOOD, "test": GOOD} | change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("samples", "points", "words"),
    [
        (SAMPLES, POINTS[:, :4], "points: 4 dimensions, but samples have 5"),
        (SAMPLES[0], POINTS, "samples: .*shape"),
        (SAMPLES, POINTS[:0], "points: .*shape"),
    ],
)
def test_bad_shapes_are_refused_in_one_line(samples, points, words):
    with pytest.raises(ValueError, match=words) as error:
        parzen.log_likelihood(samples, points, 0.1)
    assert "\n" not in str(error.value)
