"""Sources that read files: images of TensorFlow Datasets or a folder, vectors or images of a NumPy file or a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from dpm_jax.data import arrays, folder, image_set, sources, tfds
from dpm_jax.data.image_set import ImageSet
from dpm_jax.data.sources import Source
from dpm_jax.numerics import refuse

__all__ = ["array_source", "file_source", "folder_source", "tfds_source"]


def tfds_source(
    dataset: str = "mnist",
    feature: str = "image",
    train_split: str = "train",
    held_out_split: str = "test",
    in_memory: bool = True,
    *,
    data_dir: str | None,
    crop: int | None,
    validation: float,
    download: tfds.Download,
    report: Callable[[str], None],
) -> Source:
    """Read images of TensorFlow Datasets; --data_dir, or TFDS_DATA_DIR, is where they are.

    Args:
      dataset: "mnist", "cifar10", ..., with a config or version where wanted.
      feature: the name of its image feature.
      train_split: what is trained on.
      held_out_split: what is evaluated on.
      in_memory: decode all images once, at the start.
      data_dir: where datasets are prepared; None for TFDS_DATA_DIR, or the home folder's tensorflow_datasets.
      crop: side of the random squares that are the examples; None for whole images.
      validation: share of the training split that checkpoints are compared on, and that is not trained on.
      download: what to do where the dataset is not prepared.
      report: called with a line before a download.

    Raises:
      ValueError: as `tfds.load`.
    """
    if crop is not None:
        refuse.within("[0, inf)", crop=crop)
    where = None if data_dir is None else Path(data_dir)
    images = tfds.load(dataset, feature, train_split, held_out_split, where, crop, in_memory, download, report)
    return sources.image_source(images, validation)


def folder_source(
    path: str = "",
    held_out: float = 0.1,
    on_error: Literal["refuse", "skip"] = "refuse",
    *,
    data_dir: str | None,
    crop: int | None,
    validation: float,
    report: Callable[[str], None],
) -> Source:
    """Read the images below a folder, or crops of one image; the path is relative to --data_dir.

    Args:
      path: of the folder, or of one image; empty for the folder that `data_dir` is.
      held_out: share of the images that is evaluated on; of a single one, of its rows.
      on_error: "skip" leaves out what cannot be read.
      data_dir: what the path is relative to.
      crop: side of the random squares that are the examples; None for whole images, -1 for what suits the images.
      validation: share of the other images that checkpoints are compared on, and that is not trained on.
      report: called with a line about how many were read.

    Raises:
      ValueError: if there is no folder, or as `folder.load`.
    """
    refuse.within("(0, 1)", held_out=held_out)
    refuse.one_of("on_error", on_error, ("refuse", "skip"))
    if not path and data_dir is None:
        raise ValueError("path: data 'folder' needs the path of a folder of images, or of one image; or --data_dir")
    hint = "; --config.data.folder.on_error=skip leaves it out"
    named = folder.load(Path(data_dir or ".") / path, on_error, hint, lambda line: report(f"data: {line}"))
    if grey := sum(image.shape[-1] == 1 for _, image in named) % len(named):
        report(f"data: {grey} of them are grey, and taken as colours")
        named = [(name, np.broadcast_to(image, (*image.shape[:2], 3))) for name, image in named]
    crop = _crop([image.shape for _, image in named], crop, report)
    image_set.check_shapes([(name, image.shape) for name, image in named], crop)
    return sources.image_source(image_set.split([image for _, image in named], held_out, crop), validation)


def _crop(shapes: list[tuple[int, ...]], crop: int | None, report: Callable[[str], None]) -> int | None:
    """Return the side of the crops; where it is -1, the one that suits the images, and report it."""
    if crop != -1:
        return crop
    crop = image_set.choose_crop(shapes)
    report(f"data: examples are {'whole images' if crop is None else f'squares of {crop} x {crop}'}")
    return crop


def file_source(
    path: str = "",
    held_out: float = 0.1,
    constant_columns: Literal["refuse", "leave_out"] = "refuse",
    integers: Literal["dequantize", "real"] = "dequantize",
    *,
    data_dir: str | None,
    binary: bool,
    crop: int | None,
    validation: float,
    report: Callable[[str], None],
) -> Source:
    """Read vectors or images of a .npy or .npz, or vectors of a .csv; the path is relative to --data_dir.

    Args:
      path: of the file; empty for the file that `data_dir` is.
      held_out: share of the rows, or images, that is evaluated on.
      constant_columns: "leave_out": the model does not see them, and they are put back into samples.
      integers: "dequantize" columns, or float images, of nothing but integers; or take them as "real" numbers.
      data_dir: what the path is relative to.
      binary: whether bits are wanted.
      crop: side of the random squares that are the examples; None for whole images, -1 for what suits the images.
      validation: share of the other rows that checkpoints are compared on, and that is not trained on.
      report: called with a line about how much was read.

    Raises:
      ValueError: if there is no path, as `arrays.load`, or as `array_source`.
    """
    if not path and data_dir is None:
        raise ValueError("path: data 'file' needs the path of a .npy, .npz or .csv; or --data_dir")
    where = Path(data_dir or ".") / path
    return array_source(
        arrays.load(where),
        str(where),
        held_out,
        constant_columns,
        integers,
        binary=binary,
        crop=crop,
        validation=validation,
        report=report,
    )


def array_source(
    data: np.ndarray,
    name: str,
    held_out: float = 0.1,
    constant_columns: Literal["refuse", "leave_out"] = "refuse",
    integers: Literal["dequantize", "real"] = "dequantize",
    *,
    binary: bool = False,
    crop: int | None = None,
    validation: float = 0.02,
    report: Callable[[str], None] = print,
) -> Source:
    """Make the source of an array of vectors or images.

    Args:
      data: see `arrays.load`.
      name: of the array, for messages.
      held_out: as of `file_source`, and so are the others.
      constant_columns: as of `file_source`.
      integers: as of `file_source`.
      binary: as of `file_source`.
      crop: as of `file_source`.
      validation: as of `file_source`.
      report: as of `file_source`.

    Raises:
      ValueError: if bits are wanted of images, vectors are to be cropped, or as `vector_source` and `image_source`.
    """
    refuse.within("(0, 1)", held_out=held_out)
    refuse.one_of("constant_columns", constant_columns, ("refuse", "leave_out"))
    refuse.one_of("integers", integers, ("dequantize", "real"))
    names = "rows", "columns"
    if data.ndim > 2:
        names = "images", "pixels"
        if binary:
            raise ValueError(f"{name} holds images; kernel 'binomial' takes bits, [N, d]")
        crop = _crop([data.shape[1:]] * len(data), crop, report)
        image_set.check_shapes([(Path(name).name, data.shape[1:])], crop)
    elif crop is not None:
        raise ValueError(f"{name} holds vectors, which are not cut; leave config.data.crop 0")
    report(f"data: {len(data)} {names[0]} of {' x '.join(map(str, data.shape[1:]))} from {name}")
    whole = np.zeros(data.shape[1:2] if data.ndim == 2 else (), bool)
    if integers == "dequantize" and not binary and data.dtype != np.uint8:
        whole = arrays.integers(data)
    if whole.any():
        which = "pixels" if data.ndim > 2 else f"columns {', '.join(map(str, np.flatnonzero(whole)))}"
        report(
            f"data: {which} hold integers only, so noise of one step is added to them, and K bounds their probability; "
            "--config.data.file.integers=real takes them as real numbers"
        )
    if data.ndim == 2:
        return sources.vector_source(name, data, held_out, binary, validation, whole, constant_columns == "leave_out")
    if whole.any() and data.min() >= 0 and data.max() <= 255:
        data, whole = data.astype(np.uint8), np.asarray(False)
    return sources.image_source(ImageSet(*arrays.split(data, held_out), crop), validation, bool(whole))
