"""What the three commands share: flags, and how they end when the user has to put something right."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import jax
import matplotlib
from absl import app, flags, logging
from jax.experimental import multihost_utils
from ml_collections import config_flags

from dpm_jax import config as config_lib
from dpm_jax import mesh
from dpm_jax.errors import UserError
from dpm_jax.storage import Staged
from dpm_jax.training.checkpoints import Which

__all__ = ["checkpoint_flag", "config_flag", "mesh_context", "outputs", "run", "wait_for_all"]

_DISTRIBUTED = flags.DEFINE_boolean(
    "distributed", None, "Whether several processes run this together; found out on TPUs and under Slurm, if not given."
)
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of the first of the processes.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", 0)


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
            jax.distributed.initialize(**values)
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


def wait_for_all(what: str) -> None:
    """Until every process is here; what one of them does before, the others find done."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


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
    logging.set_verbosity(logging.ERROR)
    matplotlib.use("Agg")


def run(main: Callable[[], None]) -> None:
    """Run a command: parse flags, call `main`; a `UserError` is one line on stderr and exit code 2."""

    def guarded(arguments: Sequence[str]) -> None:
        try:
            if len(arguments) > 1:
                raise UserError(f"unexpected argument {arguments[1]!r}; flags begin with --")
            set_up()
            _join_processes()
            main()
        except UserError as error:
            _end(str(error))
        except KeyboardInterrupt:
            print("interrupted; train.py goes on from the last checkpoint", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=_parse)
