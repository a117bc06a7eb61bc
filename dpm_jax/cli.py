"""What the three commands share: flags, and how they end when the user has to put something right."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import config_flags

from dpm_jax import config as config_lib
from dpm_jax.errors import UserError

__all__ = ["config_flag", "run"]


def config_flag(default: Path) -> Any:
    """Define --config, with overrides --config.FIELD=VALUE; they are read here, so a bad one ends the program here."""
    with _refusing(sys.argv):
        return config_flags.DEFINE_config_file("config", str(default), "Config file: Python code, so use your own.")


def _parse(arguments: Sequence[str]) -> list[str]:
    with _refusing(arguments):
        return flags.FLAGS(list(arguments))  # type: ignore[no-any-return]


@contextmanager
def _refusing(arguments: Sequence[str]) -> Iterator[None]:
    """End with one line if flags can't be read; where a config field is not known, with the one that was meant."""
    try:
        yield
    # ml_collections raises what dictionaries raise, and a config file, being a program, may raise anything.
    except Exception as error:
        for argument in arguments[1:]:
            field = re.match(r"--?config\.([\w.]+)", argument)
            if field and (message := config_lib.nearest_field(field[1])):
                _end(message)
        known = isinstance(error, flags.Error)
        _end(str(error) if known else f"--config: {type(error).__name__}: {error}")


def _end(message: str) -> NoReturn:
    sys.stdout.flush()
    # Threads of a failed read may still print tracebacks: what they say goes nowhere, and all files are closed by now.
    screen, sys.stderr = sys.stderr, io.StringIO()
    print(" ".join(["error:", *message.split()]), file=screen, flush=True)
    os._exit(2)


def run(main: Callable[[], None]) -> None:
    """Run a command: parse flags, call `main`; a `UserError` is one line on stderr and exit code 2."""

    def guarded(arguments: Sequence[str]) -> None:
        try:
            if len(arguments) > 1:
                raise UserError(f"unexpected argument {arguments[1]!r}; flags begin with --")
            main()
        except UserError as error:
            _end(str(error))
        except KeyboardInterrupt:
            print("interrupted; train.py goes on from the last checkpoint", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=_parse)
