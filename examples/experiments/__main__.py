"""Experiments by name: python -m examples.experiments NAME --help.

Each prints one table, and writes its figures beside a picture, NAME.json and NAME.png. Interrupted, the same command
resumes after the last program, or checkpoint, that was finished.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from dpm_jax.cli import arguments as cli
from dpm_jax.errors import UserError
from examples.command import exit_code
from examples.experiments import heartbeat, mnist_cold, mnist_objectives, swiss_roll


class Command(NamedTuple):
    """An experiment: one line about it, its flags, and what is run with them."""

    summary: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]


EXPERIMENTS = {
    "swiss_roll": Command(swiss_roll.SUMMARY, swiss_roll.add_arguments, swiss_roll.run),
    "heartbeat": Command(heartbeat.SUMMARY, heartbeat.add_arguments, heartbeat.run),
    "mnist_objectives": Command(mnist_objectives.SUMMARY, mnist_objectives.add_arguments, mnist_objectives.run),
    "mnist_cold": Command(mnist_cold.SUMMARY, mnist_cold.add_arguments, mnist_cold.run),
}


class _Parser(ArgumentParser):
    """Refuses in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def main(arguments: Sequence[str]) -> int:
    """Run the experiment that is named first, and return the exit code; a `UserError` is one line on stderr."""
    parser = _Parser(prog="python -m examples.experiments", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, command in EXPERIMENTS.items():
        command.add_arguments(commands.add_parser(name, help=command.summary, allow_abbrev=False))

    def act() -> None:
        chosen = parser.parse_args(arguments)
        cli.set_up()
        EXPERIMENTS[chosen.name].run(chosen)

    return exit_code(act, "the same command resumes from the last save")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
