"""Where workdirs lie: a folder of this machine, or one in a bucket, gs://BUCKET/FOLDER.

A folder in a bucket is an `etils.epath.Path`, which does what `pathlib.Path` does, and is annotated as one. Its files
are written whole: there is no appending, no locking and no renaming in one go. So what libraries write, and what
grows, is written into a folder of this machine, and copied: `Staged`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dpm_jax.errors import UserError, writing

__all__ = ["Staged", "folder", "is_remote", "json_text", "move", "write_json", "write_text"]

_SCHEME, _EXAMPLE = "gs://", "example:"


def folder(text: str) -> Path:
    """Return the folder of this name; of "example:NAME", that of a trained model that comes with the package.

    Raises:
      UserError: if it is in a bucket that can't be reached, or the package that reads them is not there; or it is of
        another kind, or there is no such example.
    """
    if text.startswith(_EXAMPLE):
        return _example(text.removeprefix(_EXAMPLE))
    if text.startswith(_SCHEME):
        # Its reader, where TensorFlow is installed, has other credentials and other errors.
        os.environ["EPATH_USE_TF"] = "false"
        if importlib.util.find_spec("gcsfs") is None:
            raise UserError(f"{text}: buckets need one more package: pip install 'dpm_jax[gcs]'")
        from etils import epath

        remote: Any = epath.Path(text)
        # Clients of buckets raise what the layers below them do: no credentials, no such bucket, no network.
        try:
            remote.exists()
        except Exception as error:
            raise UserError(f"{text}: cannot be reached: {type(error).__name__}: {error}") from error
        return remote  # type: ignore[no-any-return]
    if "://" in text:
        raise UserError(f"{text}: must be a folder, or {_SCHEME}BUCKET/FOLDER")
    return Path(text)


def _example(name: str) -> Path:
    trained = Path(__file__).parent.parent / "trained"
    names = sorted(path.name for path in trained.iterdir() if (path / "config.json").exists())
    if name not in names:
        raise UserError(f"{_EXAMPLE}{name}: there is no such example; there are {', '.join(names)}")
    return trained / name


def results_folder(text: str) -> Path:
    """Return the folder of this name, into which results can be written: an example is copied to runs/example_NAME.

    Raises:
      UserError: as `folder`, or if the copy can't be made.
    """
    where = folder(text)
    if not text.startswith(_EXAMPLE):
        return where
    copy = Path("runs") / f"example_{where.name}"
    with writing(copy):
        copy.mkdir(parents=True, exist_ok=True)
        for path in where.iterdir():
            # Their contents alone: installed files may be read-only.
            shutil.copyfile(path, copy / path.name)
    return copy


def is_remote(path: Path) -> bool:
    """Whether it is in a bucket."""
    return not isinstance(path, Path)


def write_text(path: Path, text: str) -> None:
    """Write a file whole, or not at all, whatever happens to this machine meanwhile."""
    if is_remote(path):
        path.write_text(text)
        return
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        # Otherwise the new name may be on the disk before what it is the name of.
        os.fsync(file.fileno())
    temporary.replace(path)


def move(path: Path, target: Path) -> None:
    """Move a file into a folder, over what is there under that name; a bucket has no folders, and moves by copying."""
    if is_remote(path):
        target.write_bytes(path.read_bytes())
        path.unlink()
        return
    target.parent.mkdir(exist_ok=True)
    path.replace(target)


def json_text(tree: Any, indent: int | None = None) -> str:
    """Return a tree as strict JSON: numbers that are not finite are null, arrays lists, named tuples objects."""
    return json.dumps(_plain(tree), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, tree: Any, indent: int | None = 1) -> None:
    """Write a tree as strict JSON, see `json_text`, whole or not at all; its folder is made.

    Raises:
      UserError: if the file can't be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json_text(tree, indent) + "\n")


class Staged:
    """A folder to write into for one that may be in a bucket: that one itself, if it is not. A context manager.

    Attributes:
      folder: of this machine.
    """

    def __init__(self, where: Path) -> None:
        """Nothing is there yet, if `where` is in a bucket; what is written is copied over what is there."""
        self._where, self._temporary = where, None
        self.folder = where
        if is_remote(where):
            self._temporary = tempfile.TemporaryDirectory()
            self.folder = Path(self._temporary.name)
        self._copied: dict[Path, tuple[int, int]] = {}
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # The first error is the one to report.
            with contextlib.suppress(UserError) if error is not None else contextlib.nullcontext():
                self.push()
        finally:
            if self._temporary is not None:
                self._temporary.cleanup()

    def push(self, after: float = 0) -> None:
        """Copy files that changed since the last copy, if that is at least `seconds` ago.

        Raises:
          UserError: if it can't be; what was not copied is copied by the next call.
        """
        if self._temporary is None or time.monotonic() - self._last < after:
            return
        self._last = time.monotonic()
        try:
            for path in sorted(self.folder.rglob("*")):
                if path.is_file():
                    self._copy(path)
        except Exception as error:
            raise UserError(f"{self._where}: cannot be written: {type(error).__name__}: {error}") from error

    def _copy(self, path: Path) -> None:
        state = path.stat().st_mtime_ns, path.stat().st_size
        if self._copied.get(path) != state:
            target = self._where / str(path.relative_to(self.folder))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            self._copied[path] = state
