"""Images of TensorFlow Datasets, read without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from dpm_jax.data.image_set import Collection, ImageSet, Labelled, check_shapes, collect
from dpm_jax.numerics import refuse

__all__ = ["Download", "load", "load_labelled"]

# Whether what is not prepared is downloaded: never; only into a folder that exists, which no mistyped one does; always.
Download = Literal["never", "into_existing", "always"]

_INSTALL = "pip install 'dpm_jax[data]'"


class _Decoding(Sequence[np.ndarray]):
    """Images decoded when they are looked at."""

    def __init__(self, records: Any, feature: str) -> None:
        self._records, self._feature = records, feature

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        image: np.ndarray = self._records[int(index)][self._feature]
        return image


def load(
    name: str,
    feature: str,
    train_split: str,
    held_out_split: str,
    data_dir: Path | None,
    crop: int | None,
    in_memory: bool,
    download: Download = "never",
    report: Callable[[str], None] = print,
) -> ImageSet:
    """Load both splits of a dataset.

    Args:
      name: "mnist", "cifar10", ..., with a config or version where wanted ("celeb_a_hq/64").
      feature: the name of its image feature.
      train_split: "train", "train[:1000]", ...
      held_out_split: "test", ...
      data_dir: where datasets are prepared; None for TFDS_DATA_DIR, or the home folder's tensorflow_datasets.
      crop: side of random crops; None for whole images, which must then be of one size.
      in_memory: decode all images once, now; or each whenever it is needed.
      download: what to do where the dataset is not prepared.
      report: called with a line before a download.

    Raises:
      ValueError: if the dataset, split or feature is not there, or can't be prepared, if the splits
        overlap, or if its images are of several sizes and not cropped.
    """
    tfds = _tfds()

    def images(split: str, records: Any) -> Collection:
        shape = _image_shape(tfds, name, records, feature)
        decoding = _Decoding(records, feature)
        if in_memory:
            decoded = decoding[:]
            check_shapes([(f"{split}[{i}]", image.shape) for i, image in enumerate(decoded)], crop)
            return collect(decoded)
        if crop is None and None in shape:
            raise ValueError(f"{name!r} has images of several sizes; set config.data.crop to take crops of one size")
        if None not in shape:
            check_shapes([(f"{name!r}", shape)], crop)
        return decoding

    train_records, held_out_records = (
        _open_split(tfds, name, split, data_dir, download, report) for split in (train_split, held_out_split)
    )
    # Before anything is decoded, which takes seconds to minutes.
    if shared := _overlap(train_records, train_split, held_out_records, held_out_split):
        raise ValueError(f"train_split {train_split!r} and held_out_split {held_out_split!r} share {shared} images")
    train, held_out = images(train_split, train_records), images(held_out_split, held_out_records)
    check_shapes(
        [(f"{split}[0]", part[0].shape) for split, part in ((train_split, train), (held_out_split, held_out))], crop
    )
    return ImageSet(train, held_out, crop)


def load_labelled(name: str, feature: str, label: str, split: str, data_dir: Path | None) -> Labelled:
    """Load one split of a dataset with its classes, decoded now.

    Args:
      name: as `load`.
      feature: the name of its image feature.
      label: the name of its class feature.
      split: "train", "test[:1000]", ...
      data_dir: as `load`.

    Raises:
      ValueError: if the dataset, split or a feature is not there, or can't be prepared, or if its images
        are of several sizes.
    """
    tfds = _tfds()
    records = _open_split(tfds, name, split, data_dir, "never", print)
    _image_shape(tfds, name, records, feature)
    _check_feature(name, records, label, "class", tfds.features.ClassLabel)
    # Each record is decoded whole, so once for both.
    pairs = [(record[feature], record[label]) for record in (records[i] for i in range(len(records)))]
    images = collect([image for image, _ in pairs])
    if not isinstance(images, np.ndarray):
        raise ValueError(f"{name!r} has images of several sizes; labelled images need one size")
    return Labelled(images, np.array([label for _, label in pairs], np.int32))


def _tfds() -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(f"TFDS datasets need more packages ({error}): {_INSTALL}") from error
    return tfds


def _open_split(
    tfds: Any, name: str, split: str, data_dir: Path | None, download: Download, report: Callable[[str], None]
) -> Any:
    """Return the records of a split; what is wrong with it is a ValueError of one line."""
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if not builder.is_prepared():
            # Records of its default format have no random access.
            builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
            _check_download(builder, download)
            report(f"data: {builder.info.full_name} is not prepared yet; downloading it into {builder.data_path}")
            builder.download_and_prepare()
        return builder.as_data_source(split=split)
    except _NotPreparedError:
        raise
    except tfds.core.registered.DatasetNotFoundError:
        hint = refuse.nearest(name, tfds.list_builders(with_community_datasets=False))
        raise ValueError(f"TFDS has no dataset {name!r}{hint}") from None
    except ImportError as error:
        raise ValueError(
            f"{name!r} is not prepared in {data_dir or 'the TFDS folder'}, and preparing it needs more packages "
            f"({error}): pip install 'dpm_jax[prepare]'"
        ) from error
    # Downloads, archives and unknown splits fail in their own ways; what they say is the reason.
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"cannot open {name!r}, split {split!r}: {reason[:300]}") from error


class _NotPreparedError(ValueError):
    """A dataset that is not there, and is not to be downloaded."""


def _check_download(builder: Any, download: Download) -> None:
    name = builder.info.full_name
    folder = Path(str(builder.data_path).removesuffix(name))
    if download == "never":
        raise _NotPreparedError(
            f"{name} is not prepared in {folder}; correct --data_dir, or have train.py download it there"
        )
    if download == "into_existing" and not folder.is_dir():
        raise _NotPreparedError(
            f"{folder} does not exist; correct --data_dir, or give --download to make it and download {name} into it"
        )


def _check_feature(name: str, records: Any, feature: str, kind: str, of: type) -> Any:
    """Return the feature, if it is of that type."""
    features = records.dataset_info.features
    known = [key for key, value in features.items() if isinstance(value, of)]
    if feature not in known:
        raise ValueError(f"{name!r} has no {kind} feature {feature!r}, but {', '.join(known) or 'none'}")
    return features[feature]


def _image_shape(tfds: Any, name: str, records: Any, feature: str) -> tuple[Any, ...]:
    """(H, W, C) of 8-bit images, None where it is not the same for all."""
    images = _check_feature(name, records, feature, "image", tfds.features.Image)
    if images.np_dtype != np.uint8:
        raise ValueError(f"{name!r} has images of {images.np_dtype}; 8 bits a channel are needed")
    shape: tuple[Any, ...] = images.shape
    return shape


def _overlap(records: Any, split: str, other_records: Any, other_split: str) -> int:
    """How many examples two splits of a dataset have in common."""
    ours, theirs = (
        [
            (part.filename, part.skip, part.skip + (part.take if part.take >= 0 else part.examples_in_shard))
            for part in source.dataset_info.splits[name].file_instructions
        ]
        for source, name in ((records, split), (other_records, other_split))
    )
    return sum(
        max(0, min(end, other_end) - max(start, other_start))
        for file, start, end in ours
        for other_file, other_start, other_end in theirs
        if file == other_file
    )
