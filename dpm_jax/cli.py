"""What the three commands share: flags, and how they end when the user has to put something right."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags

from dpm_jax import config as config_lib
from dpm_jax.errors import UserError

__all__ = ["run"]


def _parse(arguments: Sequence[str]) -> list[str]:
    """Parse flags; a bad one ends the program with one line."""
    try:
        return flags.FLAGS(list(arguments))  # type: ignore[no-any-return]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        # ml_collections raises what dictionaries raise; say which field was meant.
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
