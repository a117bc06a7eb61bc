"""The one exception that is meant for the person at the keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["UserError", "missing_extra", "writing"]


class UserError(Exception):
    """Something the user can put right. Its text is one line; commands print it and exit with 2."""


def missing_extra(what: str, error: ModuleNotFoundError) -> str:
    """Return the line that says which package is missing for `what`, and how it is installed.

    Raises:
      ModuleNotFoundError: the error itself, if it is a module of this package that is missing.
    """
    if (error.name or "").startswith("dpm_jax"):
        raise error
    return f"{what} needs {error.name}: pip install 'dpm_jax[train]'"


@contextmanager
def writing(path: object) -> Iterator[None]:
    """Turn an error of the operating system, while a file or folder is written, into a `UserError` that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
