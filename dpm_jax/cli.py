"""What the three commands share: flags, and how they end when the user has to put something right."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import config_flags

from dpm_jax import config as config_lib
from dpm_jax.errors import UserError

__all__ = ["config_flag", "run"]


# What ml_collections and absl raise on a bad flag: the former raises what dictionaries do.
_FLAG_ERRORS = (flags.Error, AttributeError, KeyError, TypeError, ValueError)


def config_flag(default: Path) -> Any:
    """Define --config, with overrides --config.FIELD=VALUE; they are read here, so a bad one ends the program here."""
    try:
        return config_flags.DEFINE_config_file("config", str(default), "Config file: Python code, so use your own.")
    except _FLAG_ERRORS as error:
        _refuse_flags(sys.argv, error)


def _parse(arguments: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(list(arguments))  # type: ignore[no-any-return]
    except _FLAG_ERRORS as error:
        _refuse_flags(arguments, error)


def _refuse_flags(arguments: Sequence[str], error: Exception) -> NoReturn:
    """End with one line; where a config field is not known, with the one that was meant."""
    for argument in arguments[1:]:
        field = re.match(r"--?config\.([\w.]+)", argument)
        if field and (message := config_lib.nearest_field(field[1])):
            _end(message)
    _end(str(error).splitlines()[0])


def _end(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def run(main: Callable[[], None]) -> None:
    """Run a command: parse flags, call `main`; a `UserError` is one line on stderr and exit code 2."""

    def guarded(arguments: Sequence[str]) -> None:
        try:
            if len(arguments) > 1:
                raise UserError(f"unexpected argument {arguments[1]!r}; flags begin with --")
            main()
        except UserError as error:
            _end(" ".join(str(error).split()))
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=_parse)
