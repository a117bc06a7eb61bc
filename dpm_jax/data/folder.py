"""Images from a folder of PNG and JPEG files, or from one such file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

__all__ = ["OnError", "load"]

OnError = Literal["refuse", "skip"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}


def load(path: Path, on_error: OnError, hint: str = "") -> list[tuple[str, np.ndarray]]:
    """Name and pixels, [H, W, 1] (grey) or [H, W, 3] uint8, of each image, in the order of their names.

    Args:
      path: a folder, searched with the folders in it, or one image file.
      on_error: whether a file that can't be read is refused, or skipped with a warning that names it.
      hint: said to who meets a file that can't be read.

    Raises:
      ValueError: if there is no image, or one can't be read and `on_error` is "refuse".
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if not files:
        raise ValueError(f"{path} holds no images ({', '.join(sorted(_SUFFIXES))})")
    images = []
    for file in files:
        name = file.name if path.is_file() else str(file.relative_to(path))
        try:
            images.append((name, _read(file)))
        # Damage shows as whatever the decoder that met it raises: OSError, SyntaxError, ValueError, ...
        except Exception as error:
            if on_error == "refuse":
                raise ValueError(f"cannot read {file}: {error}{hint}") from error
            warnings.warn(f"skipped {file}: {error}", stacklevel=2)
    if not images:
        raise ValueError(f"{path} holds no image that can be read")
    return images


def _read(file: Path) -> np.ndarray:
    with Image.open(file) as opened:
        # 16-bit colours are opened as if they had 8 bits; only the raw tiles tell.
        if opened.mode == "F" or opened.mode.startswith("I") or any(";16" in str(tile) for tile in opened.tile):
            raise ValueError("images of 8 bits a channel are needed")
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            image = image.convert("RGBA") if image.mode != "LA" else image
            if np.asarray(image.getchannel("A")).min() < 255:
                raise ValueError("it has transparent pixels")
        if image.mode in ("1", "L", "LA"):
            return np.asarray(image.convert("L"))[..., None]
        pixels = np.asarray(image.convert("RGB"))
        palette = opened.mode == "P"
    grey = palette and (pixels == pixels[..., :1]).all()
    return pixels[..., :1] if grey else pixels
