"""What the three commands share: flags, and how they end when the user has to put something right."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import jax
import matplotlib
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from dpm_jax.errors import UserError
from dpm_jax.training import config as config_lib
from dpm_jax.training import mesh
from dpm_jax.training.checkpoints import Which
from dpm_jax.training.hosts import wait_for_all
from dpm_jax.training.storage import Staged

__all__ = ["checkpoint_flag", "config_file", "config_flag", "mesh_context", "outputs", "run"]

_DISTRIBUTED = flags.DEFINE_boolean(
    "distributed", None, "Whether several processes run this together; found out on TPUs and under Slurm, if not given."
)
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of the first of the processes.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", 0)
_DEBUG = "debug"
flags.DEFINE_boolean(_DEBUG, False, "Whether to show the traceback of an error, before its line (default: false).")

# Seconds that a process which has failed waits for the others, before they are ended too.
_PATIENCE = 10


def config_flag(default: Path) -> Any:
    """Define --config, with overrides --config.FIELD=VALUE; they are read here, so a bad one ends the program here."""
    with _refusing(sys.argv, default):
        return config_flags.DEFINE_config_file("config", str(default), "Config file: Python code, so use your own.")


def _parse(arguments: Sequence[str]) -> list[str]:
    with _refusing(arguments):
        return flags.FLAGS(list(arguments))  # type: ignore[no-any-return]


@contextmanager
def _refusing(arguments: Sequence[str], config: Path | None = None) -> Iterator[None]:
    """End with one line if flags can't be read.

    It names the field that was meant where a config field is not known, and the place in a config file that fails.
    """
    try:
        yield
    # ml_collections raises what dictionaries raise, and a config file, being a program, may raise anything.
    except Exception as error:
        for argument in arguments[1:]:
            field = re.match(r"--?config\.([\w.]+)", argument)
            if field and (message := config_lib.nearest_field(field[1])):
                _end(message, error)
        given = [found[1] for argument in arguments if (found := re.match(r"--?config=([^:]+)", argument))]
        in_file = _in_file(error, [Path(name) for name in given] or [config or Path()])
        known = str(error) if isinstance(error, flags.Error) else f"--config: {type(error).__name__}: {error}"
        _end(known if in_file is None else f"--config: {in_file}", error)


def config_file(flag: Any) -> tuple[ConfigDict, Path]:
    """Return the config that --config names, and the path of its file.

    Raises:
      UserError: if it can't be read, or reads what can't be.
    """
    path = Path(config_flags.get_config_filename(flags.FLAGS[flag.name]))
    try:
        # An error of this kind is kept until the config is used.
        flag.value.keys()
    except OSError as error:
        raise UserError(f"--config: {_in_file(error, [path]) or f'cannot read {path}'}") from error
    return flag.value, path


def _in_file(error: BaseException, files: Sequence[Path]) -> str | None:
    """Return 'FILE:LINE: ERROR' if what went wrong first did in one of these files."""
    names, found = {file.resolve() for file in files}, None
    cause: BaseException | None = error
    # Whoever reads config files raises errors about errors.
    while cause is not None:
        frames = traceback.extract_tb(cause.__traceback__)
        lines = [f"{frame.filename}:{frame.lineno}" for frame in frames if Path(frame.filename).resolve() in names]
        if lines:
            found = f"{lines[-1]}: {type(cause).__name__}: {cause}"
        if isinstance(cause, SyntaxError) and cause.filename:
            found = f"{cause.filename}:{cause.lineno}: {type(cause).__name__}: {cause.msg}"
        cause = cause.__cause__ or cause.__context__
    return found


def _end(message: str, error: BaseException | None) -> NoReturn:
    """End with one line on stderr and exit code 2; with --debug, after the traceback of the error."""
    # Flags may be what can't be read.
    if f"--{_DEBUG}" in sys.argv and error is not None:
        traceback.print_exception(error)
    print(" ".join(["error:", *message.split()]), file=sys.stderr, flush=True)
    sys.exit(2)


def _join_processes() -> None:
    """Make one machine of all processes, where there are several.

    Raises:
      UserError: if the flags are not all there, or the others can't be reached.
    """
    told = {"coordinator_address": _COORDINATOR, "num_processes": _NUM_PROCESSES, "process_id": _PROCESS_ID}
    values: dict[str, Any] = {name: flag.value for name, flag in told.items() if flag.value is not None}
    if values and len(values) < len(told):
        absent = next(name for name in told if name not in values)
        raise UserError(f"--{absent}: missing; --coordinator_address, --num_processes and --process_id go together")
    found = bool(values) if _DISTRIBUTED.value is None else _DISTRIBUTED.value
    if found or (_DISTRIBUTED.value is None and (_on_slurm() or _on_tpu())):
        try:
            jax.distributed.initialize(**values, shutdown_timeout_seconds=_PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"--distributed: {error}; --nodistributed runs this process by itself") from None
    if jax.process_index() > 0:
        # The first speaks for all; what others have to say is said on stderr.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _on_slurm() -> bool:
    return int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ


def _on_tpu() -> bool:
    """Whether this host has one: a host of a pod does not know how many others there are until it asks."""
    devices = Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists()
    return devices and importlib.util.find_spec("libtpu") is not None


def checkpoint_flag() -> Callable[[], Which]:
    """Define --checkpoint; what it says, when it is read."""
    flag = flags.DEFINE_string(
        "checkpoint", "newest", "newest, best (on validation examples), or the step of one (newest)."
    )

    def which() -> Which:
        text: Any = flag.value
        if text not in ("newest", "best") and not text.isdecimal():
            raise UserError(f"--checkpoint: must be newest, best, or a step, got {text!r}")
        return int(text) if text.isdecimal() else text

    return which


def mesh_context(settings: Any, batch_size: int | None = None) -> AbstractContextManager[Any]:
    """The mesh of all devices, set.

    Args:
      settings: `data` and `fsdp`, see `mesh.make`.
      batch_size: that is to be shared out evenly, if any.

    Raises:
      UserError: if the devices, or the batch, can't be shared out so.
    """
    try:
        context = mesh.over_all_devices(settings.data, settings.fsdp)
    except ValueError as error:
        raise UserError(f"config.{error}") from None
    num = jax.device_count()
    if batch_size is not None and batch_size % num:
        raise UserError(
            f"config.train.batch_size: each part of it (train.accumulate) must be divisible by the {num} devices, got "
            f"{batch_size}"
        )
    return context


@contextmanager
def outputs(where: Path) -> Iterator[Path]:
    """Where to write what all processes have computed: for `where`, and of all but the first, where nobody looks.

    So all run the same programs, which they have to, and every file is written once.
    """
    if jax.process_index() == 0:
        with Staged(where) as staged:
            yield staged.folder
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def set_up() -> None:
    """Set what a command may set for its whole process, and a library may not: the log, and how figures are drawn."""
    # Orbax and its helpers tell of every save and restore; what goes wrong comes as an exception.
    logging.set_verbosity(logging.FATAL)
    matplotlib.use("Agg")


def run(main: Callable[[], None]) -> None:
    """Run a command: parse flags, call `main`; a `UserError` is one line on stderr and exit code 2.

    Of several processes, one that fails alone ends, and ends the others after some seconds.
    """

    def guarded(arguments: Sequence[str]) -> None:
        try:
            if len(arguments) > 1:
                raise UserError(f"unexpected argument {arguments[1]!r}; flags begin with --")
            set_up()
            _join_processes()
            main()
            sys.stdout.flush()
            wait_for_all("the end")
        except UserError as error:
            _end(str(error), error)
        except BrokenPipeError:
            # Who read what is printed has read enough, as `head` does; Python flushes once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)
        except KeyboardInterrupt as error:
            print(f"interrupted; {error}" if str(error) else "interrupted", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)

    app.run(guarded, flags_parser=_parse)
