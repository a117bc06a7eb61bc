"""The classifier that samples are judged by: it learns, is kept, and what it says of samples is what they are."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from dpm_jax.data import tfds
from dpm_jax.data.image_set import Labelled
from dpm_jax.errors import UserError
from dpm_jax.evaluation.estimate import keyed
from dpm_jax.training.storage import json_text
from examples.image_quality import classifier as classifiers
from examples.image_quality import fidelity as fidelities
from examples.image_quality import frechet
from examples.image_quality.network import ConvClassifier
from tests.real_data import TFDS_DIR, needs_dataset

SHAPE = (8, 8, 1)


def squares(seed, num):
    """A bright square in one of four corners, which is its class, in noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, num).astype(np.int32)
    images = rng.integers(0, 120, (num, *SHAPE))
    for image, label in zip(images, labels, strict=True):
        top, left = 4 * (label // 2), 4 * (label % 2)
        image[top : top + 4, left : left + 4] += 100
    return Labelled(images.astype(np.uint8), labels)


TRAINING, TEST = squares(0, 2000), squares(1, 400)


def quietly(*args, **settings):
    return classifiers.train(*args, report=lambda _: None, **settings)


@pytest.fixture(scope="module")
def trained():
    return quietly(TRAINING, TEST)


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("classifier") / "of.squares"
    classifiers.save(path, trained)
    return path


# --- Network and training ---


def test_logits_are_linear_in_the_features():
    network = ConvClassifier(num_classes=5, channels=(4, 6), num_features=7)
    images = jax.random.uniform(jax.random.key(0), (3, 12, 8, 2))
    outputs, variables = network.init_with_output(jax.random.key(1), images)
    assert outputs.features.shape == (3, 7)
    assert outputs.features.dtype == outputs.logits.dtype == jnp.float32
    last = variables["params"]["Dense_1"]
    np.testing.assert_allclose(outputs.logits, outputs.features @ last["kernel"] + last["bias"], rtol=1e-5, atol=1e-6)


def test_squares_are_learnt_and_the_accuracy_is_that_of_the_test_images(trained):
    opinions = classifiers.examine(trained, TEST.images)
    right = opinions.classes == TEST.labels
    assert trained.accuracy == right.mean() > 0.99
    assert trained.accuracy_stderr == pytest.approx(right.std(ddof=1) / np.sqrt(len(right)), abs=1e-12)
    assert (trained.num_test, trained.num_classes, trained.shape) == (400, 4, SHAPE)
    assert opinions.features.shape == (400, 64)
    last = trained.params["Dense_1"]
    logits = opinions.features.astype(float) @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(opinions.confidence, scipy.special.softmax(logits, axis=1).max(1), rtol=1e-4)


def test_progress_is_told():
    told = []
    classifiers.train(TRAINING, TEST, num_epochs=2, report=told.append)
    first, last = (float(line.split()[-2]) for line in told)
    assert told[0].startswith("classifier: epoch 1 of 2")
    assert last < first < np.log(4)


def test_training_is_a_function_of_the_seed(trained):
    again, other = quietly(TRAINING, TEST), quietly(TRAINING, TEST, seed=1, num_epochs=1)
    assert jax.tree.all(jax.tree.map(np.array_equal, trained.params, again.params))
    assert classifiers.digest(again) == classifiers.digest(trained) != classifiers.digest(other)


def test_fewer_images_than_a_batch_will_do():
    few = Labelled(TRAINING.images[:50], TRAINING.labels[:50])
    assert quietly(few, TEST, num_epochs=1).num_classes == 4


def test_chunks_change_nothing(trained, monkeypatch):
    whole = classifiers.examine(trained, TEST.images)
    monkeypatch.setattr(classifiers, "chunk_size", lambda *_: 33)
    parts = classifiers.examine(trained, TEST.images)
    np.testing.assert_allclose(parts.features, whole.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(parts.classes, whole.classes)
    np.testing.assert_array_equal(classifiers.features(trained, TEST.images), parts.features)


def test_histogram_counts_every_class(trained):
    only = classifiers.examine(trained, TEST.images[TEST.labels == 2])
    np.testing.assert_allclose(classifiers.histogram(trained, only), [0, 0, len(only.classes), 0], atol=2)
    opinions = classifiers.examine(trained, TEST.images)
    np.testing.assert_array_equal(
        classifiers.histogram(trained, opinions), [(opinions.classes == label).sum() for label in range(4)]
    )


def with_labels(labels):
    return Labelled(TRAINING.images[: len(labels)], np.asarray(labels))


@pytest.mark.parametrize(
    ("training", "test", "words"),
    [
        (Labelled(TRAINING.images / 255, TRAINING.labels), TEST, "training: uint8 images .*float64"),
        (
            Labelled(TRAINING.images[..., 0], TRAINING.labels),
            TEST,
            r"training: uint8 images \[N, H, W, C\] .*2000, 8, 8",
        ),
        (Labelled(TRAINING.images[:, :6], TRAINING.labels), TEST, "training: .*divisible by 4, got 6x8"),
        (TRAINING, Labelled(TEST.images[:, :4], TEST.labels), r"test: uint8 images \[N, 8, 8, 1\] .*400, 4, 8, 1"),
        (Labelled(TRAINING.images, TRAINING.labels[:5]), TEST, r"training: labels must be \[2000\] integers.*\(5,\)"),
        (with_labels([0.0, 1.0]), TEST, "training: labels must be"),
        (with_labels([-1, 3]), TEST, "training: labels must be from 0 to 3"),
        (with_labels([0, 1]), TEST, "test: labels must be from 0 to 1"),
        (with_labels(np.zeros(0, int)), TEST, "training: at least 1 labelled"),
        (TRAINING, Labelled(TEST.images[:1], TEST.labels[:1]), "test: at least 2 labelled images are needed, got 1"),
    ],
)
def test_bad_labelled_images_are_refused_in_one_line(training, test, words):
    with pytest.raises(ValueError, match=words) as error:
        quietly(training, test)
    assert "\n" not in str(error.value)


def test_other_bad_arguments_are_refused(trained):
    with pytest.raises(ValueError, match="num_epochs: must be at least 1, got 0"):
        quietly(TRAINING, TEST, num_epochs=0)
    with pytest.raises(ValueError, match="images: empty"):
        classifiers.examine(trained, TEST.images[:0])
    with pytest.raises(ValueError, match=r"images: uint8 images \[N, 8, 8, 1\]"):
        classifiers.examine(trained, TEST.images[..., 0])


# --- Files ---


def test_what_is_saved_comes_back_bit_for_bit(trained, saved):
    assert saved.name == "of.squares"
    loaded = classifiers.load(saved, SHAPE)
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded.params, trained.params))
    assert loaded._replace(params=None) == trained._replace(params=None)
    assert classifiers.digest(loaded) == classifiers.digest(trained)
    np.testing.assert_array_equal(classifiers.features(loaded, TEST.images), classifiers.features(trained, TEST.images))


def refused(path, words, shape=SHAPE):
    with pytest.raises(UserError, match=words) as error:
        classifiers.load(path, shape)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))


def test_files_that_are_no_classifier_are_refused_in_one_line(trained, saved, tmp_path):
    refused(saved, r"shape \(8, 8, 1\), got \(28, 28, 1\)", (28, 28, 1))
    refused(tmp_path / "none.npz", "cannot be read: No such file")
    refused(tmp_path, "cannot be read")
    path = tmp_path / "x.npz"
    whole = saved.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        refused(path, "damaged, or no classifier")
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    refused(path, "damaged, or no classifier")
    with np.load(saved) as archive:
        good = dict(archive)
    name = "Dense_0/bias"
    for change in (
        {name: good[name][:-1]},
        {name: good[name].astype(np.float64)},
        {name: good[name] * np.nan},
        {name: np.array([None, "pickled"])},
        {"more": np.zeros(2)},
        {"shape": np.array([8, 8])},
        {"shape": np.array([8, 16, 1])},
        {"shape": np.array([0, 8, 1])},
        {"accuracy": np.array(1.5)},
        {"accuracy": np.array([0.5, 0.5])},
        {"accuracy": np.array("high")},
        {"accuracy_stderr": np.array(np.nan)},
        {"num_test": np.array(0)},
        {"shape": np.array([np.inf, 8, 1])},
        {"shape": np.array([6, 8, 1])},
        {"Dense_1/bias": np.array(1.0)},
    ):
        np.savez(path, **(good | change))
        refused(path, "damaged, or no classifier")
    for missing in good:
        np.savez(path, **{key: value for key, value in good.items() if key != missing})
        refused(path, "damaged, or no classifier")
    with pytest.raises(UserError, match="cannot be written: No such file"):
        classifiers.save(tmp_path / "nowhere" / "x.npz", trained)


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(saved, tmp_path_factory, place, value):
    path = tmp_path_factory.mktemp("changed") / "x.npz"
    data = bytearray(saved.read_bytes())
    data[int(place * len(data))] ^= value
    path.write_bytes(data)
    try:
        loaded = classifiers.load(path, SHAPE)
    except UserError as refusal:
        said, loaded = str(refusal), None
    # What zip files hold beside the data, dates and such, has no checksum.
    if loaded is None:
        assert "\n" not in said
    else:
        assert classifiers.digest(loaded) == classifiers.digest(classifiers.load(saved, SHAPE))


# --- Fidelity ---


def test_fidelity_tells_good_samples_from_bad(trained):
    reference, training = squares(2, 500).images, squares(3, 500).images
    good = fidelities.fidelity(trained, squares(4, 500).images, training, reference)
    one_class = squares(5, 2200)
    same = fidelities.fidelity(trained, one_class.images[one_class.labels == 1][:500], training, reference)
    noise = np.random.default_rng(6).integers(0, 256, (500, *SHAPE)).astype(np.uint8)
    bad = fidelities.fidelity(trained, noise, training, reference)
    assert same.training == bad.training == good.training
    spread = 5 * np.hypot(good.model.frechet.stderr, good.training.frechet.stderr)
    assert abs(good.model.frechet.value - good.training.frechet.value) < spread
    for worse in (same, bad):
        assert worse.model.frechet.value > 10 * good.model.frechet.value
    assert good.model.entropy_bits == pytest.approx(2, abs=0.02)
    assert same.model.entropy_bits < 0.1
    assert bad.model.confidence.mean < good.model.confidence.mean - 0.05
    features = [classifiers.features(trained, images) for images in (noise, reference)]
    assert bad.model.frechet == frechet.distance(*features)


def test_fidelity_is_json_and_a_table_that_says_what_it_is_not(trained):
    samples, training, reference = (squares(seed, num).images for seed, num in ((2, 100), (3, 100), (4, 150)))
    result = fidelities.fidelity(trained, samples, training, reference)
    told = json.loads(json_text(keyed(result)))
    assert told["model"]["frechet"]["value"] == result.model.frechet.value
    assert (
        told["training"]["classes"] == np.bincount(classifiers.examine(trained, training).classes, minlength=4).tolist()
    )
    assert told["accuracy"] == trained.accuracy
    table = fidelities.table(result)
    assert "100 samples against 150 test images" in table
    assert f"accuracy {100 * trained.accuracy:.2f} +-" in table
    assert classifiers.digest(trained) in table
    assert "Not FID" in table
    assert max(len(line) for line in table.splitlines()) <= 120


def test_the_baseline_has_as_many_images_as_the_samples(trained):
    with pytest.raises(ValueError, match="training: as many images as samples are needed, 10, got 9"):
        fidelities.fidelity(trained, TEST.images[:10], TRAINING.images[:9], TEST.images)


# --- Real data ---


@needs_dataset("mnist")
def test_mnist_is_read_with_its_labels_and_learnt():
    training, test = (
        tfds.load_labelled("mnist", "image", "label", split, TFDS_DIR) for split in ("train[:5000]", "test[:1000]")
    )
    assert training.images.shape == (5000, 28, 28, 1)
    assert training.images.dtype == np.uint8
    assert training.labels.dtype == np.int32
    assert set(training.labels) == set(range(10))
    trained = quietly(training, test, num_epochs=4)
    assert trained.accuracy > 0.93
    noise = np.random.default_rng(0).integers(-60, 60, test.images.shape)
    noisy = np.clip(test.images + noise, 0, 255).astype(np.uint8)
    result = fidelities.fidelity(trained, noisy, training.images[:1000], test.images)
    assert result.model.frechet.value > 2 * result.training.frechet.value
    assert result.training.entropy_bits == pytest.approx(np.log2(10), abs=0.05)


@needs_dataset("mnist")
@pytest.mark.parametrize(
    ("name", "feature", "label", "split", "words"),
    [
        ("mnits", "image", "label", "test", "no dataset 'mnits'; did you mean mnist?"),
        ("mnist", "label", "label", "test", "no image feature 'label', but image"),
        ("mnist", "image", "image", "test", "no class feature 'image', but label"),
        ("mnist", "image", "label", "tset", "tset"),
    ],
)
def test_labels_that_tfds_has_not_are_one_line(name, feature, label, split, words):
    with pytest.raises(ValueError, match=r".") as error:
        tfds.load_labelled(name, feature, label, split, TFDS_DIR)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
