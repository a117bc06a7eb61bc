"""Images from a folder of image files of any format that Pillow reads, or from one such file."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageFile, ImageOps

__all__ = ["OnError", "load"]

OnError = Literal["refuse", "skip"]

# Formats whose further frames are no images beside the first: previews and depth maps of photographs, layers.
_FIRST_ONLY = ("MPO", "PSD")
# Bit of a TIFF page's tag NewSubfileType: a smaller copy of another page.
_SUBFILE, _SMALLER_COPY = 254, 1


def load(
    path: Path, on_error: OnError, hint: str = "", report: Callable[[str], None] | None = None
) -> list[tuple[str, np.ndarray]]:
    """Read name and pixels, [H, W, 1] (grey) or [H, W, 3] uint8, of each image, in the order of their names.

    Files are known by their endings. Each page or frame of a file is an image, "name[1]" from the second on.

    Args:
      path: a folder, searched with all folders in it, also those that are links, each once; or one image file.
      on_error: whether a file that can't be read is refused, or skipped with a warning that names it.
      hint: added to the error about a file that can't be read.
      report: called with a line about how many files and images were read, and how many were left out.

    Raises:
      ValueError: if there is no image, or one can't be read and `on_error` is "refuse".
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    found = [path] if path.is_file() else sorted(_files(path))
    endings = _endings() if path.is_dir() else {path.suffix.lower()}
    files = [file for file in found if file.suffix.lower() in endings]
    others = Counter(ending or "no ending" for file in found if (ending := file.suffix.lower()) not in endings)
    if not files:
        raise ValueError(f"{path} holds no images, of {len(found)} files; {', '.join(sorted(endings))} are read")
    images = []
    skipped = 0
    for file in files:
        name = file.name if path.is_file() else str(file.relative_to(path))
        try:
            frames = _read(file)
        # Damage shows as whatever the decoder that met it raises: OSError, SyntaxError, ValueError, ...
        except Exception as error:
            if on_error == "refuse":
                raise ValueError(f"cannot read {file}: {error}{hint}") from error
            warnings.warn(f"skipped {file}: {error}", stacklevel=2)
            skipped += 1
            continue
        images += [(f"{name}[{i}]" if i else name, frame) for i, frame in enumerate(frames)]
    if not images:
        raise ValueError(f"{path} holds no image that can be read")
    if report is not None:
        left_out = [f"{skipped} that cannot be read"] if skipped else []
        left_out += [f"{others.total()} that are no images ({', '.join(sorted(others))})"] if others else []
        ending = f"; left out {' and '.join(left_out)}" if left_out else ""
        report(f"{len(images)} images from {len(files) - skipped} of {len(found)} files of {path}{ending}")
    return images


def _files(folder: Path) -> Iterator[Path]:
    """Each file below a folder, through links, but no folder twice: a link to a folder above would have no end."""
    seen = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(where)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(where) / name for name in names)


def _endings() -> set[str]:
    """Return endings of the files that Pillow reads; not of those for which it has no more than a name."""
    return {
        ending
        for ending, name in Image.registered_extensions().items()
        if name in Image.OPEN and not _is_stub(Image.OPEN[name][0])
    }


def _is_stub(factory: object) -> bool:
    return isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)


def _read(file: Path) -> list[np.ndarray]:
    """Read all frames of a file."""
    with Image.open(file) as opened:
        palette = opened.mode == "P"
        num = 1 if opened.format in _FIRST_ONLY else getattr(opened, "n_frames", 1)
        frames = []
        for i in range(num):
            opened.seek(i)
            if not getattr(opened, "tag_v2", {}).get(_SUBFILE, 0) & _SMALLER_COPY:
                frames.append(_pixels(opened))
    # A palette does not tell whether its colours are grey; and a grey GIF's frames are in colour from the second on.
    if palette or len({frame.shape[-1] for frame in frames}) > 1:
        grey = all((frame == frame[..., :1]).all() for frame in frames)
        return [frame[..., :1] if grey else np.broadcast_to(frame, (*frame.shape[:2], 3)) for frame in frames]
    return frames


def _pixels(opened: Image.Image) -> np.ndarray:
    """Pixels of the frame that a file is at."""
    # 16-bit colours are opened as if they had 8 bits; only the raw tiles tell.
    tiles = getattr(opened, "tile", [])
    if opened.mode == "F" or opened.mode.startswith("I") or any(";16" in str(tile) for tile in tiles):
        raise ValueError("images of 8 bits a channel are needed")
    image = ImageOps.exif_transpose(opened)
    if image.has_transparency_data:
        image = image.convert("RGBA") if image.mode != "LA" else image
        if np.asarray(image.getchannel("A")).min() < 255:
            raise ValueError("it has transparent pixels")
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))[..., None]
    return np.asarray(image.convert("RGB"))
