"""Config files: found by name or path, read, and changed by flags --config.FIELD=VALUE."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from absl.flags import ArgumentParser, FlagValues
from ml_collections import ConfigDict, config_flags

from dpm_jax import configs
from dpm_jax.errors import UserError
from dpm_jax.training import config as config_lib

__all__ = ["ConfigFile", "define", "names", "read", "refusing"]

_FOLDER = Path(configs.__file__).parent


class ConfigFile(NamedTuple):
    """A config, and the name of the file that it comes from, without `.py`."""

    config: ConfigDict
    name: str


def names() -> list[str]:
    """Return the names of the configs that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("[!_]*.py"))


def read(text: str) -> ConfigFile:
    """Read a config file.

    Args:
      text: the name of a config of the package, or the path of a Python file that defines `get_config`; what follows
        a colon is passed to `get_config`.

    Raises:
      UserError: if there is no such file, or it fails; names the file and the line.
    """
    name, *options = text.split(":", 1)
    path = _find(name)
    namespace: dict[str, Any] = {"__name__": "config_file", "__file__": str(path)}
    # A config file is a program, which may raise anything.
    try:
        exec(compile(path.read_bytes(), path, "exec"), namespace)
        if "get_config" not in namespace:
            raise UserError(f"--config: {path}: defines no function get_config")
        config = namespace["get_config"](*options)
    except Exception as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"--config: {_place(error, path) or f'{path}: {type(error).__name__}: {error}'}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config: {path}: get_config must return a ConfigDict, got {type(config).__name__}")
    return ConfigFile(config, path.stem)


def _find(name: str) -> Path:
    """Return the path of a config by its name or path."""
    path, known = Path(name), names()
    if name in known:
        return _FOLDER / f"{name}.py"
    if path.is_file():
        return path
    close = difflib.get_close_matches(path.stem, known, n=1)
    hint = f"did you mean --config={close[0]}? " if close else ""
    raise UserError(f"--config: there is no file or config {name!r}; {hint}The configs are {', '.join(known)}")


def _place(error: BaseException, path: Path) -> str | None:
    """Return 'FILE:LINE: ERROR' for the first cause of an error that lies in this file."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: SyntaxError: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{frames[-1].lineno}: {type(error).__name__}: {error}" if frames else None


class _Read(ArgumentParser[ConfigFile]):
    """Returns, for any text, the file that was read before flags are parsed."""

    def __init__(self, file: ConfigFile) -> None:
        self.file = file

    def parse(self, argument: str) -> ConfigFile:
        return self.file


def define(known: FlagValues, arguments: Sequence[str], default: str) -> None:
    """Define --config, whose value is a `ConfigFile`, and the --config.FIELD that are among the arguments.

    Args:
      known: flags of the command.
      arguments: of the command; the file that they name is read here.
      default: name of the config that is read if they name none.

    Raises:
      UserError: as `read`.
    """
    text, others = _split(arguments)
    file = read(default if text is None else text)
    flags.DEFINE(
        _Read(file=file),  # by keyword: absl caches parsers that are made by position
        "config",
        default,
        f"Config to train: a name ({', '.join(names())}) or the path of a Python file. --config.FIELD=VALUE changes "
        "a field of it.",
        flag_values=known,
    )
    known["config"].default_as_str = repr(default)
    # These flags write into the config when they are parsed.
    fields = FlagValues()
    config_flags.DEFINE_config_dict("config", file.config, flag_values=fields, sys_argv=["", *others])
    for name in fields:
        if name != "config":
            known[name] = fields[name]


def _split(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the value of the last --config, if any, and the other arguments."""
    text, others, rest = None, [], iter(arguments)
    for argument in rest:
        if found := re.fullmatch(r"--?config(?:=(.*))?", argument):
            text = next(rest, None) if found[1] is None else found[1]
        else:
            others.append(argument)
    return text, others


@contextmanager
def refusing(arguments: Sequence[str]) -> Iterator[None]:
    """Turn errors about flags and fields of configs into a `UserError`, with the nearest name where one is unknown."""
    try:
        yield
    except UserError:
        raise
    # ml_collections raises what dictionaries raise.
    except Exception as error:
        for argument in arguments:
            field = re.match(r"--?(?:no)?config\.([\w.]+)", argument)
            if field and (message := config_lib.nearest_field(field[1])):
                raise UserError(message) from error
        known = isinstance(error, flags.Error)
        raise UserError(str(error) if known else f"--config: {type(error).__name__}: {error}") from error
