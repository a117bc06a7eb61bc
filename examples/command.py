"""How a command of the examples ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

from dpm_jax.errors import UserError

__all__ = ["exit_code"]


def exit_code(act: Callable[[], None], interrupted: str) -> int:
    """Run a command and return its exit code: 2 after one line on stderr for a `UserError`, 130 after Ctrl-C.

    Args:
      act: the command.
      interrupted: what is said after Ctrl-C.
    """
    try:
        act()
    except (UserError, OSError) as error:
        sys.stdout.flush()
        print(" ".join(["error:", *str(error).split()]), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return 130
    return 0
