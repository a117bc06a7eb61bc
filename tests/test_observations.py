"""Observations: what is read, how it is held against a model, masks, noise, scores, pictures, and every refusal."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dpm_jax.data import standardization
from dpm_jax.errors import UserError
from dpm_jax.evaluation import examples as examples_lib
from dpm_jax.evaluation import masks, observations, plots, posterior_samples, scores
from dpm_jax.evaluation.examples import Examples
from dpm_jax.evaluation.observations import Observations
from dpm_jax.evaluation.posterior_samples import Draws
from dpm_jax.training import config as config_lib
from dpm_jax.training import experiment
from dpm_jax.training.build import experiment as built_from

RNG = np.random.default_rng(0)
PIXELS = standardization.of_pixels(100.0, 3000.0, 256)
REALS = standardization.Standardization(np.zeros(2), np.ones(2))
BITS = standardization.identity()


def build(shape, **fields):
    config = config_lib.default()
    config.update_from_flattened_dict(fields)
    return built_from(config, shape)


@pytest.fixture(scope="module")
def grey():
    """8 x 8, other multiples of 4 allowed."""
    return build(
        (8, 8, 1), **{"network.name": "unet", "network.unet.attention": False, "network.unet.features": (8, 8, 8)}
    )


@pytest.fixture(scope="module")
def colour():
    return build(
        (8, 8, 3), **{"network.name": "unet", "network.unet.attention": False, "network.unet.features": (8, 8, 8)}
    )


@pytest.fixture(scope="module")
def points():
    return build((2,))


@pytest.fixture(scope="module")
def strings():
    return build(
        (6,), **{"data.name": "heartbeat", "kernel": "binomial", "reverse.prediction": "x_0", "schedule.name": "erase"}
    )


def pixels(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


def examples(samples, mask=None, truth=None):
    return Examples(np.asarray(samples), mask, truth, "--inpaint: x.npz")


def refused(words, call, *arguments, **named):
    with pytest.raises(UserError) as error:
        call(*arguments, **named)
    assert "\n" not in str(error.value)
    for word in [words] if isinstance(words, str) else words:
        assert word in str(error.value)


# --- Reading ---


def test_arrays_and_their_keys_are_read(tmp_path):
    x, mask = pixels(3, 8, 8), RNG.random((8, 8)) < 0.5
    np.savez(tmp_path / "x.npz", samples=x, mask=mask, truth=x + 0.5, other=np.zeros(2))
    found = examples_lib.read(str(tmp_path / "x.npz"), "--inpaint")
    np.testing.assert_array_equal(found.samples, x)
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_array_equal(found.truth, x + 0.5)
    assert found.name.startswith("--inpaint: ")
    np.save(tmp_path / "x.npy", x)
    found = examples_lib.read(str(tmp_path / "x.npy"), "--inpaint")
    np.testing.assert_array_equal(found.samples, x)
    assert found.mask is None
    assert found.truth is None


def test_images_are_read_from_one_file_or_a_folder(tmp_path):
    x = pixels(2, 8, 12, 3)
    for i in range(2):
        Image.fromarray(x[i]).save(tmp_path / f"{i}.png")
    np.testing.assert_array_equal(examples_lib.read(str(tmp_path), "--denoise").samples, x)
    np.testing.assert_array_equal(examples_lib.read(str(tmp_path / "1.png"), "--denoise").samples, x[1:])
    Image.fromarray(pixels(8, 8, 3)).save(tmp_path / "other.png")
    refused(["--denoise", "0.png has shape (8, 12, 3)", "other.png"], examples_lib.read, str(tmp_path), "--denoise")


def test_files_that_cannot_be_read_are_refused(tmp_path):
    def refuse(name, *words):
        refused([f"--inpaint: {tmp_path / name}", *words], examples_lib.read, str(tmp_path / name), "--inpaint")

    refuse("nowhere.npy", "does not exist")
    np.savez(tmp_path / "keys.npz", x=np.zeros(3))
    refuse("keys.npz", "no key 'samples' among ['x']")
    np.save(tmp_path / "words.npy", np.array(["a"]))
    refuse("words.npy", "real numbers")
    np.save(tmp_path / "complex.npy", np.ones(3, complex))
    refuse("complex.npy", "real numbers")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    refuse("objects.npy", "cannot be read")
    np.save(tmp_path / "empty.npy", np.zeros((0, 2)))
    refuse("empty.npy", "is empty, of shape (0, 2)")
    for name in ("bad.npz", "bad.npy", "bad.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"no such thing")
        refuse(name, "cannot")
    np.savez(tmp_path / "cut.npz", samples=pixels(4, 8, 8))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:100])
    refuse("cut.npz", "cannot be read")
    Image.fromarray(pixels(8, 8)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    with pytest.raises(UserError) as error:
        examples_lib.read(str(tmp_path / "cut.png"), "--inpaint")
    # What is said of a training set is of no help here.
    assert "config" not in str(error.value)


# --- Shapes and values ---


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (1, 8, 8), (1, 8, 8, 1), (5, 8, 8), (5, 8, 8, 1), (12, 16)])
def test_grey_images_may_lack_axes(shape, grey):
    x = pixels(*shape)
    found = observations.inpainting(examples(x), grey, PIXELS, "left")
    size = shape if shape == (12, 16) else (8, 8)
    assert found.y.shape == found.mask.shape == found.truth.shape == (5 if shape[0] == 5 else 1, *size, 1)
    assert found.y.dtype == found.truth.dtype == np.float64
    assert found.mask.dtype == bool
    assert found.noise == 0
    np.testing.assert_array_equal(found.truth.ravel(), x.ravel())


def test_vectors_and_colours_may_lack_the_batch_axis(points, colour, strings):
    assert observations.inpainting(examples([1.0, 2.0]), points, REALS, "left").y.shape == (1, 2)
    assert observations.inpainting(examples(np.ones((4, 2))), points, REALS, "left").y.shape == (4, 2)
    assert observations.inpainting(examples(pixels(8, 8, 3)), colour, PIXELS, "left").y.shape == (1, 8, 8, 3)
    assert observations.inpainting(examples(np.ones(6, bool)), strings, BITS, "left").y.shape == (1, 6)


def test_shapes_that_do_not_fit_are_refused(grey, colour, points):
    def refuse(words, x, model, standard=PIXELS):
        refused(["--inpaint: x.npz", words], observations.inpainting, examples(x), model, standard, "left")

    refuse("needs sides that are multiples of 4, the pixels of its coarsest scale, got 8x10", pixels(8, 10), grey)
    refuse("has shape (1, 8, 8, 3); the model takes images of 8 x 8 x 1", pixels(1, 8, 8, 3), grey)
    refuse("has shape (5, 8, 8); the model takes images of 8 x 8 x 3", pixels(5, 8, 8), colour)
    refuse("takes vectors: (2,) or (n, 2)", np.zeros(3), points, REALS)
    refuse("has shape (8, 8, 1); the model takes vectors", pixels(8, 8, 1), points, REALS)


def test_another_size_is_refused_where_the_network_has_one():
    one_size = build((8, 8, 1), **{"network.name": "unet", "network.unet.attention": True})
    refused(
        "--inpaint: x.npz: the network has attention that was trained at one size, 8x8, got 12x16",
        *(observations.inpainting, examples(pixels(12, 16)), one_size, PIXELS, "left"),
    )
    experiment.check_size(one_size, 8)
    refused(
        "--size: the network has attention that was trained at one size, 8x8, got 12x12;",
        experiment.check_size,
        one_size,
        12,
    )


def test_sizes_need_not_be_square(grey):
    experiment.check_size(grey, 16, 4)
    experiment.check_size(grey, 12)
    refused("--size: the network needs sides that are multiples of 4, the pixels", experiment.check_size, grey, 10)
    refused("--x: the network needs sides that are multiples of 4", experiment.check_size, grey, 12, 10, "--x")


def test_pixels_are_integers_from_0_to_255(grey):
    def refuse(words, x):
        refused(["--inpaint: x.npz holds", words], observations.inpainting, examples(x), grey, PIXELS, "left")

    x = np.zeros((8, 8, 1))
    observations.inpainting(examples(x + 255), grey, PIXELS, "left")
    for value, words in ((0.5, "0.5"), (256, "256"), (-1, "-1")):
        x[3, 7, 0] = value
        refuse(f"{words} at [0, 3, 7, 0]; the model takes pixels, integers from 0 to 255", x)
    refuse("booleans", np.ones((8, 8), bool))
    real = standardization.of_pixels(0.5, 0.1, None)
    assert observations.inpainting(examples(x), grey, real, "left").y.min() == -1


def test_bits_are_0_and_1(strings):
    x = np.zeros((2, 6))
    x[1, 5] = 2
    for call, last in ((observations.inpainting, "left"), (observations.denoising, 0.1)):
        refused("holds 2 at [1, 5]; bits are needed, 0 or 1", call, examples(x), strings, BITS, last)


def test_nan_is_for_what_is_hidden(points):
    x = np.array([[np.nan, 1.0], [2.0, 3.0]])
    found = observations.inpainting(examples(x), points, REALS, "left")
    np.testing.assert_array_equal(found.y, [[0, 1], [0, 3]])
    assert found.truth is None  # it is not whole
    x[1, 1] = np.inf
    refused(
        "holds inf at [1, 1]; finite numbers are needed where observed",
        *(observations.inpainting, examples(x), points, REALS, "left"),
    )
    refused("holds nan at [0, 0]; finite", observations.denoising, examples(x), points, REALS, 0.1)
    x[1, 1] = 1e39  # not in float32
    refused(
        "holds 1e+39 at [1, 1]; the training data are too far away",
        observations.inpainting,
        examples(x),
        points,
        REALS,
        "left",
    )


def test_observations_beside_constant_columns_and_of_integers():
    """Three columns in the data's own units, of which the model sees two."""
    model = build((2,))
    standard = standardization.Standardization(
        np.array([1.7e9, 3.0]), np.array([30.0, 2.0]), None, np.array([False, True]), {1: 14.62}
    )
    x = np.array([[1.7e9 + 31, 14.62, 4.0], [1.7e9 - 2, 14.62, 7.0]])
    found = observations.inpainting(examples(x), model, standard, "left")
    np.testing.assert_array_equal(found.truth, x)
    np.testing.assert_array_equal(found.mask, np.array([[False, True, True]] * 2))
    given = posterior_samples.evidence(model, standard, found)
    np.testing.assert_allclose(given.mean, [[0, (4.5 - 3) / 2], [0, (7.5 - 3) / 2]], rtol=1e-6)
    np.testing.assert_array_equal(given.variance, [[np.inf, 0]] * 2)
    whole = observations.denoising(examples(x + np.array([3, 1, 0.5])), model, standard, 3.0)
    given = posterior_samples.evidence(model, standard, whole)
    np.testing.assert_allclose(given.mean[:, 0], [34 / 30, 1 / 30], rtol=1e-5)
    np.testing.assert_allclose(given.variance, [[0.01, 2.25]] * 2, rtol=1e-6)

    def refuse(words, column, value):
        other = x.copy()
        other[1, column] = value
        refused(words, observations.inpainting, examples(other), model, standard, "left")

    refuse("holds 15 at [1, 1]; all training data have 14.62 there", 1, 15.0)
    refuse("holds 4.5 at [1, 2]; integers are needed", 2, 4.5)
    refused("takes vectors: (3,)", observations.inpainting, examples(x[:, :2]), model, standard, "left")
    refused(
        "hides everything",
        observations.inpainting,
        examples(x, mask=np.array([False, True, False])),
        model,
        standard,
        None,
    )


# --- Masks ---


def test_presets_of_images():
    left = masks.preset_mask("left", 3, (4, 6, 3))
    assert left.shape == (3, 4, 6, 3)
    assert not left[:, :, :3].any()
    assert left[:, :, 3:].all()
    for preset, side in (("centre", 4), ("centre:2", 2), ("centre:8", 8)):
        hidden = ~masks.preset_mask(preset, 1, (8, 12, 1))[0, ..., 0]
        start = (8 - side) // 2
        assert hidden.sum() == side**2
        assert hidden[start : start + side, start + 2 : start + 2 + side].all()
    for preset, num in (("random", 48), ("random:0.8", 77), ("random:0.001", 1), ("random:0.999", 95)):
        mask = masks.preset_mask(preset, 3, (8, 12, 3), seed=1)
        assert ((~mask[..., 0]).reshape(3, -1).sum(1) == num).all()
        assert (mask == mask[..., :1]).all()


def test_random_masks_are_functions_of_seed_and_example():
    mask = masks.preset_mask("random", 4, (8, 8, 1), seed=3)
    np.testing.assert_array_equal(masks.preset_mask("random", 2, (8, 8, 1), seed=3), mask[:2])
    assert (mask[0] != mask[1]).any()
    assert (masks.preset_mask("random", 4, (8, 8, 1), seed=4) != mask).any()


def test_presets_of_vectors():
    np.testing.assert_array_equal(masks.preset_mask("left", 1, (5,))[0], [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(masks.preset_mask("centre", 1, (6,))[0], [1, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(masks.preset_mask("centre:2", 2, (6,))[1], [1, 1, 0, 0, 1, 1])
    assert (masks.preset_mask("random:0.75", 5, (8,)).sum(1) == 2).all()


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("centre:9", "a side from 1 to 8, examples are 8 x 8"),
        ("centre:0", "a side from 1 to 8"),
        ("centre:8", "hides everything of example 0"),
        ("centre:big", "'big' is not a number; presets are left, centre[:SIDE], random[:FRACTION]"),
        ("centre:2.5", "not a number"),
        ("random:0", "must lie in (0, 1)"),
        ("random:1", "must lie in (0, 1)"),
        ("random:nan", "must lie in (0, 1)"),
        ("random:", "not a number"),
        ("left:3", "no such preset"),
        ("center", "no file or preset; presets hide left, centre[:SIDE], random[:FRACTION]"),
    ],
)
def test_presets_that_do_not_fit_are_refused(preset, words, grey):
    refused(["--mask", preset, words], observations.inpainting, examples(pixels(8, 8)), grey, PIXELS, preset)


def test_presets_hide_something_or_are_refused():
    one = build((1,))
    standard = standardization.identity()
    refused("hides nothing", observations.inpainting, examples([[1.0]]), one, standard, "left")
    refused("hides everything", observations.inpainting, examples([[1.0]]), one, standard, "random")


MASK = np.arange(64).reshape(8, 8) % 3 > 0


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3), (1, 8, 8), (2, 8, 8), (2, 8, 8, 1), (2, 8, 8, 3)])
@pytest.mark.parametrize("name", ["m.npy", "m.npz"])
def test_masks_of_files_are_spread_over_examples_and_channels(shape, name, tmp_path, colour):
    spread = MASK if len(shape) == 2 or shape[-1] == 8 else MASK[..., None]
    mask = np.broadcast_to(spread, shape)
    save = {"m.npy": np.save, "m.npz": lambda path, mask: np.savez(path, mask=mask)}[name]
    save(tmp_path / name, mask)
    x = pixels(2, 8, 8, 3)
    found = observations.inpainting(examples(x), colour, PIXELS, str(tmp_path / name))
    np.testing.assert_array_equal(found.mask, np.broadcast_to(MASK[None, ..., None], (2, 8, 8, 3)))
    np.testing.assert_array_equal(found.y, np.where(found.mask, x, 0))
    assert found.truth is None
    given = observations.inpainting(examples(x, mask=mask), colour, PIXELS, None)
    np.testing.assert_array_equal(given.mask, found.mask)
    # What is asked for comes before what the file has.
    left = observations.inpainting(examples(x, mask=mask), colour, PIXELS, "left")
    np.testing.assert_array_equal(left.mask, masks.preset_mask("left", 2, (8, 8, 3)))
    assert left.truth is None


def test_masks_of_images_and_numbers(tmp_path, grey, points):
    x = pixels(2, 8, 8)
    Image.fromarray(np.where(MASK, 255, 0).astype(np.uint8)).save(tmp_path / "m.png")
    found = observations.inpainting(examples(x), grey, PIXELS, str(tmp_path / "m.png"))
    np.testing.assert_array_equal(found.mask[1, ..., 0], MASK)
    red = np.where(MASK[..., None], [255, 0, 0], 0).astype(np.uint8)
    Image.fromarray(red).save(tmp_path / "red.png")
    found = observations.inpainting(examples(x), grey, PIXELS, str(tmp_path / "red.png"))
    np.testing.assert_array_equal(found.mask[1, ..., 0], MASK)
    (tmp_path / "each").mkdir()
    for i, mask in enumerate((MASK, ~MASK)):
        Image.fromarray(mask).save(tmp_path / "each" / f"{i}.png")
    found = observations.inpainting(examples(x), grey, PIXELS, str(tmp_path / "each"))
    np.testing.assert_array_equal(found.mask[..., 0], [MASK, ~MASK])
    np.save(tmp_path / "m.npy", [[0.0, 1.0], [1.0, 0.0]])
    found = observations.inpainting(examples(np.ones((2, 2))), points, REALS, str(tmp_path / "m.npy"))
    np.testing.assert_array_equal(found.mask, [[False, True], [True, False]])


def test_masks_that_do_not_fit_are_refused(tmp_path, grey):
    def refuse(words, mask, given=None):
        x = examples(pixels(2, 8, 8), mask=mask)
        refused(words, observations.inpainting, x, grey, PIXELS, given)

    refuse(["--mask: is needed", "x.npz has no key 'mask'", "left, centre"], None)
    refuse(["--inpaint: x.npz, key 'mask', hides everything of example 0", "some must be"], np.zeros((8, 8), bool))
    refuse("hides nothing of example 1", np.stack([MASK, np.ones((8, 8), bool)]))
    refuse("has shape (3, 8, 8); one for all is (8, 8), or one for each of 2: (2, 8, 8)", np.ones((3, 8, 8)))
    refuse("has shape (8, 9)", np.ones((8, 9)))
    refuse("more values than 0 (hidden) and one other (observed), such as 7", MASK * 5 + MASK[::-1] * 2)
    refuse("such as nan", np.where(MASK, 1, np.nan))
    refuse("real numbers", MASK.astype(str))
    refuse(["--mask: nowhere.npy", "no file or preset"], None, "nowhere.npy")
    np.savez(tmp_path / "m.npz", samples=MASK)
    refuse(f"--mask: {tmp_path / 'm.npz'} has no key 'mask' among ['samples']", None, str(tmp_path / "m.npz"))
    Image.fromarray(pixels(8, 8)).save(tmp_path / "photo.jpg")
    refuse("photo.jpg holds more values", None, str(tmp_path / "photo.jpg"))


# --- Truth and noise ---


def test_nothing_of_the_truth_is_in_what_is_hidden(grey):
    x = pixels(3, 8, 8)
    found = observations.inpainting(examples(x), grey, PIXELS, "left")
    assert (found.y[~found.mask] == 0).all()
    np.testing.assert_array_equal(found.y[found.mask], found.truth[found.mask])


def test_truth_that_is_given(grey, points):
    x, truth = pixels(2, 8, 8), pixels(2, 8, 8)
    for mask in ("left", None):
        found = observations.inpainting(examples(x, mask=MASK, truth=truth), grey, PIXELS, mask)
        np.testing.assert_array_equal(found.truth[..., 0], truth)
    found = observations.denoising(examples(x + 0.5, truth=truth), grey, PIXELS, 3.0)
    np.testing.assert_array_equal(found.truth[..., 0], truth)
    for wrong, words in (
        (truth[:1], "has shape (1, 8, 8); that of the samples is (2, 8, 8)"),
        (truth / 256, "integers from 0 to 255"),
        (np.where(MASK, np.nan, truth), "finite"),
    ):
        refused(
            ["--inpaint: x.npz, key 'truth',", words],
            *(observations.denoising, examples(x, truth=wrong), grey, PIXELS, 3.0),
        )


def test_noisy_pixels_are_any_real_numbers(grey):
    x = RNG.normal(100, 200, (2, 8, 8))
    found = observations.denoising(examples(x), grey, PIXELS, 25.0)
    np.testing.assert_allclose(found.y[..., 0], x, rtol=1e-6)
    assert found.mask.all()
    assert found.noise == 25
    assert found.truth is None


def test_noise_is_added_where_asked(grey, points, strings):
    x = pixels(50, 8, 8)
    found = observations.denoising(examples(x), grey, PIXELS, 20.0, add_noise=True, seed=1)
    np.testing.assert_array_equal(found.truth[..., 0], x)
    added = found.y - found.truth
    assert added.std() == pytest.approx(20, rel=5 / np.sqrt(2 * added.size))
    assert abs(added.mean()) < 5 * 20 / np.sqrt(added.size)
    again = observations.denoising(examples(x[:2]), grey, PIXELS, 20.0, add_noise=True, seed=1)
    np.testing.assert_array_equal(again.y, found.y[:2])
    other = observations.denoising(examples(x[:2]), grey, PIXELS, 20.0, add_noise=True, seed=2)
    assert (other.y != again.y).any()
    bits = observations.denoising(examples(np.ones((2000, 6))), strings, BITS, 0.1, add_noise=True)
    assert set(np.unique(bits.y)) == {0, 1}
    assert 1 - bits.y.mean() == pytest.approx(0.1, abs=5 * np.sqrt(0.09 / bits.y.size))


def test_noise_that_does_not_fit_is_refused(grey, strings):
    x, bits = examples(pixels(8, 8)), examples(np.zeros(6))
    for noise in (0.0, -1.0, np.nan, np.inf):
        refused("--noise_sigma: must be above 0 and finite", observations.denoising, x, grey, PIXELS, noise)
    for noise in (0.0, 0.5, 25.0, np.nan):
        refused(
            ["--noise_sigma: for bits", "(0, 0.5)", f"got {noise:g}"],
            *(observations.denoising, bits, strings, BITS, noise),
        )
    refused("is for --inpaint", observations.denoising, x._replace(mask=MASK), grey, PIXELS, 3.0)
    with_truth = x._replace(truth=pixels(8, 8))
    refused("--add_noise: ", observations.denoising, with_truth, grey, PIXELS, 3.0, add_noise=True)
    refused("integers", observations.denoising, examples(np.full((8, 8), 0.5)), grey, PIXELS, 3.0, add_noise=True)


# --- Scores ---


def test_psnr():
    truth = np.zeros((2, 4, 4, 3), np.float32)
    x = np.full((2, 4, 4, 3), 10, np.uint8)
    x[1] = 0
    np.testing.assert_allclose(scores.psnr(x, truth), [20 * np.log10(25.5), np.inf])
    np.testing.assert_allclose(scores.psnr(x, truth, peak=1.0), [-20, np.inf])
    where = np.zeros(x.shape, bool)
    where[:, 0] = True
    x[:, 1:] = 255
    np.testing.assert_allclose(scores.psnr(x, truth, where), [20 * np.log10(25.5), np.inf])


def of(truth, mask=None, noise=0.0, y=None):
    mask = np.ones(truth.shape, bool) if mask is None else mask
    return Observations(np.where(mask, truth if y is None else y, 0), mask, noise, truth)


def test_scores_of_images():
    truth = pixels(3, 8, 8, 1).astype(np.float32)
    mask = masks.preset_mask("left", 3, (8, 8, 1))
    draws = np.stack([truth + 4, truth - 2], axis=1) + np.where(mask, 99, 0)[:, None]
    found = scores.score(of(truth, mask), draws, False, 256)
    # What was observed does not count.
    np.testing.assert_allclose(found.single, 20 * np.log10(255 / 4) / 2 + 20 * np.log10(255 / 2) / 2, rtol=1e-5)
    np.testing.assert_allclose(found.mean, 20 * np.log10(255), rtol=1e-5)
    assert found.observed is None
    assert "hidden" in found.measure
    noisy = scores.score(of(truth, None, 5.0, truth + 5), draws[:, :1] * 0, False, 256)
    np.testing.assert_allclose(noisy.observed, 20 * np.log10(255 / 5), rtol=1e-5)
    assert noisy.mean is None
    assert "all values" in noisy.measure
    real = scores.score(of(truth / 100), truth[:, None] / 100 + 0.1, False, None)
    np.testing.assert_allclose(real.single, 20 * np.log10(np.ptp(truth) / 10), rtol=1e-4)
    assert scores.score(of(truth)._replace(truth=None), draws, False, 256) is None


def test_scores_of_points_and_bits():
    truth = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    mask = np.array([[True, False], [True, False]])
    draws = np.stack([truth + 3, truth - 1], axis=1)
    found = scores.score(of(truth, mask), draws, False, None)
    np.testing.assert_allclose(found.single, 2)
    np.testing.assert_allclose(found.mean, 1)
    bits = np.array([[0, 1, 1, 0]], np.float32)
    hidden = np.array([[True, False, False, False]])
    draws = np.array([[[1, 1, 1, 1], [1, 0, 1, 0]]], np.float32)
    found = scores.score(of(bits, hidden), draws, True, None)
    np.testing.assert_allclose(found.single, 1 / 3)
    np.testing.assert_allclose(found.mean, 1 / 3)  # two ties of three
    flipped = scores.score(of(bits, None, 0.2, 1 - bits), draws, True, None)
    np.testing.assert_allclose(flipped.observed, 1)


def test_the_table_says_what_it_measures():
    truth = pixels(3, 8, 8, 1).astype(np.float32)
    draws = np.stack([truth + 4, truth - 2], axis=1)
    text = scores.table(scores.score(of(truth, None, 5.0, truth + 5), draws, False, 256))
    assert text.splitlines()[0] == "PSNR in dB, peak 255, over all values; 3 observations"
    assert [line.split("  ")[1] for line in text.splitlines()[1:]] == [
        "the observation itself",
        "single draws, mean of 2",
        "mean of the 2 draws",
    ]
    exact = scores.table(scores.score(of(truth[:1]), draws[:1, :1] * 0 + truth[:1, None], False, 256))
    assert "inf" in exact
    assert "+-" not in exact


# --- Results and pictures ---


def test_results_hold_all_that_was_seen_and_drawn(tmp_path):
    truth = pixels(3, 8, 8, 1).astype(np.float32)
    mask = masks.preset_mask("left", 3, (8, 8, 1))
    draws = pixels(3, 5, 8, 8, 1)
    np.savez(tmp_path / "x.npz", **posterior_samples.arrays(of(truth, mask), Draws(draws)))
    with np.load(tmp_path / "x.npz") as found:
        assert set(found) == {"samples", "mean", "observed", "mask", "truth"}
        np.testing.assert_array_equal(found["samples"], draws)
        np.testing.assert_allclose(found["mean"], draws.mean(1), rtol=1e-6)
        np.testing.assert_array_equal(found["mask"], mask)
        assert found["mean"].dtype == np.float64
    assert "truth" not in posterior_samples.arrays(of(truth)._replace(truth=None), Draws(draws))


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(("num", "num_draws"), [(1, 1), (1, 9), (14, 2)])
def test_pictures_of_images(channels, num, num_draws, tmp_path):
    x = pixels(num, 16, 12, channels)
    mask = masks.preset_mask("centre", num, x.shape[1:])
    draws = np.repeat(x[:, None], num_draws, axis=1)
    figure = plots.observations(np.where(mask, x, 0).astype(np.float32), mask, draws, x.astype(np.float32))
    assert len(figure.axes) == 2 + min(num_draws, 6) + (num_draws > 1)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["truth", "observed"]
    shown = [axes.images[0].get_array() for axes in figure.axes]
    # Draws that are the truth look like it; the hole looks like nothing else.
    np.testing.assert_allclose(shown[2], shown[0])
    assert (np.ptp(shown[1], axis=-1) > 0)[4:12].any()
    if channels == 1:
        assert np.ptp(shown[0], axis=-1).max() == 0
    plots.save(figure, tmp_path / "x.png")
    assert max(Image.open(tmp_path / "x.png").size) < 4000


def test_pictures_of_one_range_and_without_truth():
    y = RNG.normal(0, 1, (2, 8, 8, 1)).astype(np.float32) * 9
    draws = RNG.normal(0, 1, (2, 3, 8, 8, 1)).astype(np.float32)
    figure = plots.observations(y, np.ones(y.shape, bool), draws, noise=1.0)
    assert [axes.get_title() for axes in figure.axes] == ["observed", "draw 1", "draw 2", "draw 3", "mean of 3"]
    shown = np.concatenate([axes.images[0].get_array()[:8] for axes in figure.axes])
    assert shown.min() == 0
    assert shown.max() == 1
    plots.plt.close(figure)


@pytest.mark.parametrize(
    ("dim", "num", "preset"), [(1, 2, None), (2, 15, None), (2, 1, "left"), (2, 3, "random"), (5, 2, "random")]
)
def test_pictures_of_points(dim, num, preset, tmp_path):
    truth = RNG.normal(0, 1, (num, dim)) * [100, *[1] * (dim - 1)]
    mask = np.ones(truth.shape, bool) if preset is None else masks.preset_mask(preset, num, (dim,))
    draws = truth[:, None] + RNG.normal(0, 1, (num, 20, dim))
    for known in (truth, None):
        figure = plots.observations(np.where(mask, truth, 0), mask, draws, known, 0.5 if preset is None else 0.0)
        assert sum(axes.axison for axes in figure.axes) == min(num, 12)
        plots.save(figure, tmp_path / "x.png")


@pytest.mark.parametrize(("num", "num_draws", "length"), [(1, 1, 1), (1, 50, 20), (15, 3, 200)])
def test_pictures_of_bits(num, num_draws, length, tmp_path):
    truth = RNG.integers(0, 2, (num, length)).astype(np.float32)
    mask = RNG.random((num, length)) < 0.5
    draws = np.repeat(truth[:, None], num_draws, axis=1)
    for known in (truth, None):
        figure = plots.observations(np.where(mask, truth, 0), mask, draws, known, binary=True)
        shown = figure.axes[0].images[0].get_array()
        observed = int(known is not None)
        np.testing.assert_array_equal(np.ptp(shown[observed], axis=-1) > 0, ~mask[0])
        np.testing.assert_array_equal(shown[observed + 1, :, 0], 1 - truth[0])
        plots.save(figure, tmp_path / "x.png")


def test_arrays_of_jax_are_taken(points):
    found = observations.inpainting(Examples(jnp.ones((3, 2)), None, None, "held_out"), points, REALS, "left")
    assert isinstance(found.y, np.ndarray)
    assert found.truth.shape == (3, 2)
