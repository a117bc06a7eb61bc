"""Images: exact round trips, crops, folders, arrays, TFDS, and every way in which files are not fit."""

import importlib
import struct
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dpm_jax.data import arrays, folder, image_set, sources, standardization
from dpm_jax.data.image_set import ImageSet
from dpm_jax.errors import UserError
from dpm_jax.training import build
from dpm_jax.training import config as config_lib
from tests.real_data import TEXTURES, TFDS_DIR, needs_dataset, needs_textures

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


# --- Standardisation ---


@settings(max_examples=25, deadline=None)
@given(mean=st.floats(0, 255), std=st.floats(0.5, 128), seed=st.integers(0, 1000))
def test_pixels_come_back_exactly(mean, std, seed):
    standard = standardization.of_pixels(mean, std**2, 256)
    raw = np.tile(np.arange(256, dtype=np.uint8), 200).reshape(2, 160, 160, 1)
    x = standard.dequantize(jax.random.key(seed), raw)
    assert x.dtype == jnp.float32
    back = standard.invert(x)
    assert back.dtype == jnp.uint8
    np.testing.assert_array_equal(back, raw)
    np.testing.assert_array_equal(standard.invert(standard.centres(raw)), raw)


def test_the_noise_is_uniform_over_one_step():
    noise = np.asarray(standardization.dequantization_noise(KEY, (1000, 1000)), np.float64)
    assert noise.min() > 0
    assert noise.max() < 1
    assert abs(noise.mean() - 0.5) < 5 / np.sqrt(12 * noise.size)
    assert abs(noise.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / noise.size)


def test_the_whole_set_gets_zero_mean_and_unit_variance():
    raw = (pixels(500, 8, 8, 3) // 3 + 20).astype(np.uint8)
    source = sources.image_source(ImageSet(raw, raw[:50], None))
    x = np.asarray(source.standardization.dequantize(KEY, raw), np.float64)
    assert abs(x.mean()) < 1e-3
    assert abs(x.std() - 1) < 1e-3
    assert source.standardization.mean.shape == ()


def test_what_is_out_of_range_is_clipped_and_real_numbers_are_not_rounded():
    standard = standardization.of_pixels(100.0, 400.0, 256)
    np.testing.assert_array_equal(standard.invert(jnp.asarray([-100.0, 100.0])), [0, 255])
    real = standardization.of_pixels(0.25, 4.0, None)
    x = np.asarray([[0.1, -3.7]], np.float32)
    np.testing.assert_allclose(real.invert(real.spread(KEY, jnp.asarray(real.centres(x)))), x, rtol=1e-6)


def test_constant_images_are_refused():
    with pytest.raises(ValueError, match="same value"):
        sources.image_source(ImageSet(np.full((3, 4, 4, 1), 7, np.uint8), np.zeros((2, 4, 4, 1), np.uint8), None))


# --- Crops and splits ---


def test_crops_lie_inside_and_reach_every_corner():
    image = np.arange(5 * 7, dtype=np.uint8).reshape(1, 5, 7, 1)
    place = RNG.random((2000, 2))
    taken = image_set.crops(image, np.zeros(2000, int), place, 3)
    assert taken.shape == (2000, 3, 3, 1)
    corners = {int(crop[0, 0, 0]) for crop in taken}
    assert corners == {7 * top + left for top in range(3) for left in range(5)}
    last = image_set.crops(image, np.zeros(1, int), np.full((1, 2), np.nextafter(1, 0)), 3)
    assert last[0, -1, -1, 0] == 34


def test_one_photograph_is_parted_into_rows_that_do_not_overlap():
    image = np.repeat(np.arange(100, dtype=np.uint8)[:, None, None], 50, axis=1)
    parts = image_set.split([image], 0.2, 16)
    assert parts.train.shape == (1, 80, 50, 1)
    assert parts.held_out.shape == (1, 20, 50, 1)
    assert parts.train.max() < parts.held_out.min()
    with pytest.raises(ValueError, match="no room for crops of 60"):
        image_set.split([image], 0.2, 60)
    with pytest.raises(ValueError, match=r"config\.data\.crop"):
        image_set.split([image], 0.2, None)


def test_a_collection_of_images_is_parted_whole():
    images = [np.full((4, 4, 1), i, np.uint8) for i in range(10)]
    parts = image_set.split(images, 0.3, None)
    train, kept = ({int(image[0, 0, 0]) for image in part} for part in (parts.train, parts.held_out))
    assert len(kept) == 3
    assert train | kept == set(range(10))


def test_one_image_is_too_few_to_evaluate_on():
    images = pixels(4, 6, 6, 1)
    with pytest.raises(ValueError, match="1 image is held out"):
        sources.image_source(ImageSet(images[:3], images[3:], None))


def test_moments_agree_with_numpy_however_images_are_held():
    images = pixels(20, 6, 6, 3)
    for held in (images, list(images)):
        mean, variance = image_set.moments(held)
        assert mean == pytest.approx(images.mean(), rel=1e-9)
        assert variance == pytest.approx(images.var(), rel=1e-9)


def test_moments_of_many_images_are_those_of_random_ones():
    """Sorted by class, as data sets are: the first 10 000 are all black."""

    class Sorted(list):
        """Images that are decoded when they are looked at."""

        looked_at = 0

        def __getitem__(self, index):
            self.looked_at += 1
            return np.full((1, 1, 1), 255 * (index >= 10_000), np.uint8)

    images = Sorted(range(20_000))
    mean, variance = image_set.moments(images)
    assert images.looked_at == 10_000
    assert mean == pytest.approx(255 / 2, abs=5 * 255 / 2 / np.sqrt(10_000))
    assert variance == pytest.approx(255**2 / 4, rel=0.01)
    assert image_set.moments(images) == (mean, variance)


def test_held_out_crops_have_no_end_and_whole_images_do():
    images = pixels(4, 12, 12, 1)
    whole = sources.image_source(ImageSet(images[:2], images[2:], None))
    assert whole.num_held_out == 2
    assert whole.held_out(KEY, 2).shape == (2, 12, 12, 1)
    crops = sources.image_source(ImageSet(images[:2], images[2:], 5))
    assert crops.num_held_out is None
    assert crops.held_out(KEY, 300).shape == (300, 5, 5, 1)
    np.testing.assert_array_equal(crops.held_out(KEY, 30), crops.held_out(KEY, 30))
    assert crops.train_examples(7).shape == (7, 5, 5, 1)


# --- Folders ---


@pytest.fixture
def photographs(tmp_path):
    for i in range(3):
        Image.fromarray(pixels(20, 24)).save(tmp_path / f"{i}.png")
    return tmp_path


def open_folder(path, **changes):
    config = config_lib.default()
    config.update_from_flattened_dict(
        {"data.name": "folder", "data.folder.path": str(path), "data.crop": 8, "network.name": "unet", **changes}
    )
    return build.source(config)


def test_folders_are_read_in_order_and_in_depth(photographs):
    (photographs / "more").mkdir()
    Image.fromarray(pixels(20, 24)).save(photographs / "more" / "3.JPG", format="JPEG")
    (photographs / "notes.txt").write_text("not an image")
    images = folder.load(photographs, "refuse")
    assert [name for name, _ in images] == ["0.png", "1.png", "2.png", "more/3.JPG"]
    assert all(image.shape == (20, 24, 1) and image.dtype == np.uint8 for _, image in images)
    assert open_folder(photographs).shape == (8, 8, 1)
    assert open_folder(photographs, **{"data.crop": 0, "data.folder.held_out": 0.5}).shape == (20, 24, 1)


def test_links_are_followed_and_have_an_end(photographs, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    Image.fromarray(pixels(20, 24)).save(elsewhere / "a.png")
    (elsewhere / "notes.txt").write_text("not an image")
    (photographs / "more").symlink_to(elsewhere)
    (photographs / "again").symlink_to(elsewhere)  # once is enough
    (elsewhere / "up").symlink_to(photographs)
    said = []
    images = folder.load(photographs, "refuse", report=said.append)
    assert [name for name, _ in images] == ["0.png", "1.png", "2.png", "again/a.png"]
    assert said == [f"4 images from 4 of 5 files of {photographs}; left out 1 that are no images (.txt)"]
    (photographs / "gone.png").symlink_to(photographs / "nowhere.png")
    with pytest.raises(ValueError, match=r"cannot read .*gone\.png"):
        folder.load(photographs, "refuse")
    with pytest.warns(UserWarning, match="skipped"):
        assert len(folder.load(photographs, "skip", report=said.append)) == 4
    assert "left out 1 that cannot be read and 1 that are no images" in said[1]


def test_every_frame_is_an_image_in_every_format(tmp_path):
    frames = [Image.fromarray(image) for image in pixels(3, 16, 16)]
    for name in ("a.gif", "b.tiff", "c.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "d.tga")
    frames[0].save(tmp_path / "e.jp2", irreversible=False)
    images = folder.load(tmp_path, "refuse")
    several = [f"{name}{number}" for name in ("a.gif", "b.tiff", "c.png") for number in ("", "[1]", "[2]")]
    assert [name for name, _ in images] == [*several, "d.tga", "e.jp2"]
    for i, (name, image) in enumerate(images):
        expected = frames[i % 3] if i < 9 else frames[0]
        np.testing.assert_array_equal(image, np.asarray(expected)[..., None], err_msg=name)
    colours = [Image.fromarray(image) for image in pixels(2, 16, 16, 3)]
    colours[0].save(tmp_path / "f.webp", save_all=True, append_images=colours[1:], lossless=True)
    np.testing.assert_array_equal([image for _, image in folder.load(tmp_path / "f.webp", "refuse")], colours)


def test_previews_are_no_images(tmp_path):
    whole, preview = Image.fromarray(pixels(16, 16, 3)), Image.fromarray(pixels(8, 8, 3))
    whole.save(tmp_path / "photograph.jpg", format="MPO", save_all=True, append_images=[preview])
    assert [image.shape for _, image in folder.load(tmp_path, "refuse")] == [(16, 16, 3)]


def test_colours_and_palettes(tmp_path):
    rgb = pixels(6, 6, 3)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    Image.fromarray(np.concatenate([rgb, np.full((6, 6, 1), 255, np.uint8)], -1)).save(tmp_path / "b.png")
    for name, image in folder.load(tmp_path, "refuse"):
        np.testing.assert_array_equal(image, rgb, err_msg=name)


def test_truncated_images_are_named_and_refused_or_skipped(photographs):
    whole = (photographs / "1.png").read_bytes()
    (photographs / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"config\.data\.folder: cannot read .*1\.png: .*on_error=skip") as error:
        open_folder(photographs)
    assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match=r"skipped .*1\.png"):
        assert len(folder.load(photographs, "skip")) == 2


def test_folders_that_are_not_fit_are_refused_in_one_line(photographs, tmp_path):
    def refused(words, path=photographs, **changes):
        with pytest.raises(UserError, match=words) as error:
            open_folder(path, **changes)
        assert "\n" not in str(error.value)

    (tmp_path / "empty").mkdir()
    refused("holds no images", tmp_path / "empty")
    refused("does not exist", tmp_path / "nowhere")
    refused(r"smaller than config\.data\.crop=21", **{"data.crop": 21})
    Image.fromarray(pixels(30, 30)).save(photographs / "big.png")
    refused("20x24 and big.png 30x30; set config.data.crop", **{"data.crop": 0})
    assert open_folder(photographs).shape == (8, 8, 1)
    (tmp_path / "16").mkdir()
    Image.fromarray(RNG.integers(0, 60000, (20, 24)).astype(np.uint16)).save(tmp_path / "16" / "x.png")
    refused("8 bits a channel are needed", tmp_path / "16")
    with pytest.raises(UserError, match=r"config\.data\.folder\.path"):
        open_folder("")


def test_grey_images_among_colours_are_taken_as_colours(photographs, capsys):
    Image.fromarray(pixels(20, 24, 3)).save(photographs / "colour.png")
    source = open_folder(photographs)
    assert source.shape == (8, 8, 3)
    assert "3 of them are grey, and taken as colours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("shapes", "side"),
    [
        ([(28, 28)] * 20, None),
        ([(64, 32)] * 20, None),
        ([(30, 28)] * 2, 28),
        ([(28, 28), (32, 32)], 28),
        ([(480, 640), (500, 700)], 32),
        ([(128, 128)] * 2, 32),
        ([(100, 200)], 32),
        ([(28, 28)], 12),
        ([(6, 5), (5, 6)], 4),
    ],
)
def test_examples_of_a_folder_are_chosen_from_its_images(shapes, side, tmp_path):
    assert image_set.choose_crop([(*shape, 3) for shape in shapes]) == side
    for i, shape in enumerate(shapes):
        Image.fromarray(pixels(*shape)).save(tmp_path / f"{i}.png")
    config = importlib.import_module("dpm_jax.configs.folder").get_config()
    source = build.source(config, str(tmp_path))
    assert source.shape == (*(shapes[0] if side is None else (side, side)), 1)
    # The network of the config divides any of them.
    build.experiment(config, source.shape)


def test_images_too_small_to_be_cut_are_refused(tmp_path):
    Image.fromarray(pixels(7, 30)).save(tmp_path / "x.png")
    config = importlib.import_module("dpm_jax.configs.folder").get_config()
    with pytest.raises(UserError, match=r"images of at least 4 x 4 pixels are needed, one alone twice as high"):
        build.source(config, str(tmp_path))
    config.data.name = "tfds"
    with pytest.raises(UserError, match=r"config\.data\.tfds.*crop: must lie in \[0, inf\), got -1"):
        build.source(config, str(tmp_path))


def write_png_of_16_bits(path, colour_type, channels):
    """By hand: PIL writes 16 bits for grey alone."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 8, 16, colour_type, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + bytes(8 * 2 * channels) for _ in range(8)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bits_a_channel_are_refused(tmp_path, colour_type, channels):
    write_png_of_16_bits(tmp_path / "x.png", colour_type, channels)
    with pytest.raises(ValueError, match="8 bits a channel"):
        folder.load(tmp_path, "refuse")


@pytest.mark.parametrize("mode", ["I;16B", "F", "I"])
def test_other_wide_pixels_are_refused(tmp_path, mode):
    size = {"I;16B": 2, "F": 4, "I": 4}[mode]
    Image.frombytes(mode, (4, 4), bytes(16 * size)).save(tmp_path / "x.tiff")
    with pytest.raises(ValueError, match="8 bits a channel"):
        folder.load(tmp_path, "refuse")


def test_transparency_palettes_and_rotation(tmp_path):
    rgba = pixels(6, 4, 4)
    rgba[0, 0, 3] = 7
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    with pytest.raises(ValueError, match="transparent"):
        folder.load(tmp_path / "clear.png", "refuse")
    grey = pixels(6, 4)
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    ((_, image),) = folder.load(tmp_path / "palette.png", "refuse")
    assert image.shape == (6, 4, 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(grey).save(tmp_path / "turned.jpg", exif=exif)
    ((_, image),) = folder.load(tmp_path / "turned.jpg", "refuse")
    assert image.shape == (4, 6, 1)


@needs_textures
def test_bark_is_one_photograph_with_two_parts():
    source = open_folder(TEXTURES / "bark012_grey.png", **{"data.crop": 32})
    assert source.shape == (32, 32, 1)
    assert source.held_out(KEY, 5).shape == (5, 32, 32, 1)


# --- Arrays ---


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(20, 6, 6), (20, 6, 6, 3)])
def test_arrays_of_images(tmp_path, dtype, shape):
    data = pixels(*shape).astype(dtype)
    data = data if dtype == np.uint8 else data / 7
    np.save(tmp_path / "x.npy", data)
    config = config_lib.default()
    config.update_from_flattened_dict({"data.name": "file", "data.file.path": str(tmp_path / "x.npy")})
    source = build.source(config)
    assert source.shape == (6, 6, shape[3] if len(shape) == 4 else 1)
    assert source.standardization.levels == (256 if dtype == np.uint8 else None)
    assert source.num_held_out == 2
    config.data.crop = 7
    with pytest.raises(UserError, match="smaller than"):
        build.source(config)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.full((4, 6, 6), 256), "integers from 0 to 255"),
        (np.full((4, 6, 6), -1), "integers from 0 to 255"),
        (np.ones((4, 6, 6), bool), "holds bool images"),
        (np.zeros((4, 1, 28, 28), np.uint8), "28 channels; channels come last"),
    ],
)
def test_arrays_that_are_not_images_are_refused(tmp_path, data, words):
    np.save(tmp_path / "x.npy", data)
    with pytest.raises(ValueError, match=words):
        arrays.load(tmp_path / "x.npy")


def test_small_integers_are_pixels(tmp_path):
    data = pixels(4, 6, 6)
    np.save(tmp_path / "x.npy", data.astype(np.int64))
    loaded = arrays.load(tmp_path / "x.npy")
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded[..., 0], data)


def test_images_are_not_bits(tmp_path):
    np.save(tmp_path / "x.npy", pixels(5, 4, 4) % 2)
    config = config_lib.default()
    config.update_from_flattened_dict(
        {
            "data.name": "file",
            "data.file.path": str(tmp_path / "x.npy"),
            "kernel": "binomial",
            "reverse.prediction": "x_0",
            "schedule.name": "erase",
        }
    )
    with pytest.raises(UserError, match="holds images"):
        build.source(config)


def open_images(path, **changes):
    config = config_lib.default()
    fields = {f"data.{name}": value for name, value in changes.items()}
    config.update_from_flattened_dict({"data.name": "file", "data.file.path": str(path), **fields})
    said = []
    return build.source(config, report=said.append), said


def test_real_images_keep_what_float32_would_lose(tmp_path):
    data = 1e9 + RNG.normal(0, 1, (40, 4, 4, 1))
    np.save(tmp_path / "x.npy", data)
    source, said = open_images(tmp_path / "x.npy")
    assert len(said) == 1
    batch = next(source.supply.batches(0, 8))
    x = np.asarray(source.supply.prepare(KEY, jnp.asarray(batch)))
    assert x.dtype == np.float32
    assert abs(x.std() - 1) < 0.3
    for images in (source.standardization.invert(x), source.train_examples(36)):
        assert {round(v, 4) for v in images.ravel()} <= {round(v, 4) for v in data.ravel()}


def test_float_images_of_integers_are_pixels_or_dequantised_and_that_is_said(tmp_path):
    np.save(tmp_path / "x.npy", pixels(20, 6, 6).astype(np.float32))
    source, said = open_images(tmp_path / "x.npy")
    assert source.standardization.levels == 256
    assert "pixels hold integers only" in said[1]
    source, _ = open_images(tmp_path / "x.npy", **{"file.integers": "real"})
    assert source.standardization.levels is None
    assert not source.standardization.step.any()
    wide = RNG.integers(-5, 4096, (20, 6, 6)).astype(np.float64)
    np.save(tmp_path / "x.npy", wide)
    source, said = open_images(tmp_path / "x.npy")
    assert (source.standardization.levels, len(said)) == (None, 2)
    x = np.asarray(source.supply.prepare(KEY, jnp.asarray(next(source.supply.batches(0, 18)))), np.float64)
    assert set(source.standardization.invert(x).ravel()) <= set(wide.ravel())
    noise = x * source.standardization.scale + source.standardization.mean
    inside = noise - np.floor(noise)
    assert scipy.stats.kstest(inside.ravel(), "uniform").pvalue > 1e-4


def test_nan_in_images_is_named(tmp_path):
    data = np.zeros((4, 3, 3), np.float32)
    data[2, 1, 1] = np.nan
    np.save(tmp_path / "x.npy", data)
    with pytest.raises(ValueError, match="first in row 2"):
        arrays.load(tmp_path / "x.npy")


# --- TFDS ---


def open_tfds(**changes):
    config = config_lib.default()
    config.update_from_flattened_dict(
        {
            "data.name": "tfds",
            "data.tfds.train_split": "train[:300]",
            "data.tfds.held_out_split": "test[:100]",
            "data.validation": 0.0,
            **{f"data.{name}": value for name, value in changes.items()},
        }
    )
    return build.source(config, str(TFDS_DIR))


@needs_dataset("mnist")
def test_mnist_is_read_from_tfds():
    source = open_tfds()
    assert source.shape == (28, 28, 1)
    assert source.num_held_out == 100
    assert source.train_examples(1000).shape == (300, 28, 28, 1)
    assert source.train_examples(1000).dtype == np.uint8
    lazy = open_tfds(**{"tfds.in_memory": False})
    assert lazy.standardization.scale == pytest.approx(float(source.standardization.scale))
    np.testing.assert_array_equal(next(lazy.supply.batches(0, 8, 3)), next(source.supply.batches(0, 8, 3)))


@needs_dataset("cifar10")
def test_cifar10_is_read_from_tfds():
    source = open_tfds(**{"tfds.dataset": "cifar10", "crop": 24})
    assert source.shape == (24, 24, 3)


@needs_dataset("mnist")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tfds.dataset": "mnits"}, "no dataset 'mnits'; did you mean mnist?"),
        ({"tfds.feature": "label"}, "no image feature 'label', but image"),
        ({"tfds.train_split": "trian"}, "trian"),
        ({"tfds.train_split": "train[:0]"}, "train[:0]"),
        ({"tfds.train_split": "train+test[50:]"}, "'train+test[50:]' and held_out_split 'test[:100]' share 50 images"),
        ({"tfds.in_memory": False, "crop": 40}, "smaller than config.data.crop=40"),
    ],
)
def test_what_tfds_has_not_is_one_line(changes, words):
    with pytest.raises(UserError) as error:
        open_tfds(**changes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@needs_dataset("mnist")
def test_datasets_that_need_more_to_be_prepared_name_the_extra(monkeypatch):
    import tensorflow_datasets

    def refuse(*_, **__):
        raise ImportError("No module named 'tensorflow'")

    monkeypatch.setattr(tensorflow_datasets, "builder", refuse)
    with pytest.raises(UserError, match=r"'mnist' is not prepared in .*: pip install 'dpm_jax\[prepare\]'") as error:
        open_tfds()
    assert "\n" not in str(error.value)


def open_mnist(where, **options):
    config = config_lib.default()
    config.update_from_flattened_dict({"data.name": "tfds", "network.name": "unet"})
    return build.source(config, str(where), **options)


def test_a_mistyped_folder_is_neither_made_nor_filled(tmp_path, monkeypatch):
    dataset_builder = pytest.importorskip("tensorflow_datasets").core.dataset_builder
    asked = []

    def download(builder, **_):
        asked.append(str(builder.data_path))
        raise OSError("no network here")

    monkeypatch.setattr(dataset_builder.DatasetBuilder, "download_and_prepare", download)
    mistyped = tmp_path / "dtaa"
    for where in (mistyped, tmp_path):
        with pytest.raises(
            UserError, match=rf"mnist/\S+ is not prepared in {where}; correct --data_dir, or have train"
        ):
            open_mnist(where)
    with pytest.raises(UserError, match=rf"{mistyped} does not exist; correct --data_dir, or give --download"):
        open_mnist(mistyped, download="into_existing")
    assert not mistyped.exists()
    assert not asked
    for where, how in ((tmp_path, "into_existing"), (mistyped, "always")):
        said = []
        with pytest.raises(UserError, match="no network here"):
            open_mnist(where, download=how, report=said.append)
        assert asked.pop().startswith(f"{where}/mnist/")
        assert f"downloading it into {where}/mnist/" in said[0]


def test_tfds_missing_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"pip install 'dpm_jax\[data\]'"):
        open_tfds()
