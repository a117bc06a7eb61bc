"""Code shared by the commands: common flags, joining of processes, exit codes and error messages."""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import matplotlib
from absl import flags, logging
from absl.flags import FlagValues

from dpm_jax.cli import compilation_cache, config_file
from dpm_jax.errors import UserError
from dpm_jax.training import cost, mesh
from dpm_jax.training import pod as pods
from dpm_jax.training.checkpoints import Which
from dpm_jax.training.hosts import wait_for_all
from dpm_jax.training.programs import Program
from dpm_jax.training.storage import Staged

__all__ = ["Definitions", "checkpoint", "mesh_context", "outputs", "pod", "print_cost", "run", "set_up"]

# Seconds that a process which has failed waits for the others, before they are ended too.
_PATIENCE = 10
# Files by which a machine with an accelerator is known.
_ACCELERATORS = ("/dev/accel0", "/dev/vfio/0", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")


class Definitions:
    """Definitions of the flags of one call: of each type as `absl.flags.DEFINE_...`, and of those that are shared."""

    def __init__(self, known: FlagValues, arguments: Sequence[str]) -> None:
        """Prepare to define flags in `known`."""
        self._known, self._arguments = known, arguments
        self.string = partial(flags.DEFINE_string, flag_values=known)
        self.integer = partial(flags.DEFINE_integer, flag_values=known)
        self.float = partial(flags.DEFINE_float, flag_values=known)
        self.boolean = partial(flags.DEFINE_boolean, flag_values=known)
        self.enum = partial(flags.DEFINE_enum, flag_values=known)

    def config(self, default: str) -> None:
        """Define --config, whose value is a `config_file.ConfigFile`, and --config.FIELD."""
        config_file.define(self._known, self._arguments, default)

    def checkpoint(self) -> None:
        """Define --checkpoint, which `checkpoint` reads."""
        self.string(
            "checkpoint",
            "newest",
            "Checkpoint to load: newest, best (on validation examples), or the number of a step.",
        )

    def dry_run(self, what: str) -> None:
        """Define --dry_run and --topology, which `pod` and `print_cost` read."""
        self.boolean("dry_run", False, f"Whether to compile {what}, print what it costs, and do nothing else.")
        self.string(
            "topology",
            None,
            "TPU slice that --dry_run compiles for, such as v5e:2x4; no TPU is needed (the devices of this machine).",
        )

    def common(self) -> None:
        """Define the flags of every command."""
        self.boolean("help", False, "Whether to print this text and do nothing else.", short_name="h")
        self.boolean("debug", False, "Whether to print the traceback of an error before its message.")
        self.boolean("verbose", False, "Whether to show the logs and warnings of other libraries.")
        self.boolean(
            "distributed",
            None,
            "Whether several processes run this command together (detected on TPUs and under Slurm).",
        )
        self.string("coordinator_address", None, "HOST:PORT of the first of several processes (none).")
        self.integer("num_processes", None, "Number of processes that run this command together (one).", 1)
        self.integer("process_id", None, "Index of this process among them, from 0 (none).", 0)


def run(
    about: str | None,
    define: Callable[[Definitions], None],
    act: Callable[[FlagValues], None],
    arguments: Sequence[str] | None,
    more_help: Callable[[], str] | None = None,
) -> int:
    """Run a command and return its exit code: 2 after one line on stderr for a `UserError`, 130 after Ctrl-C.

    Where one of several processes fails alone, it ends, and ends the others after some seconds.

    Args:
      about: text that --help prints before the flags.
      define: defines the flags of the command.
      act: does what the parsed flags ask for.
      arguments: of the command, without its name; those of this process if None.
      more_help: makes the text that --help prints after the flags.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        given = _parse(define, arguments)
        if given.help:
            print(about, given.get_help(include_special_flags=False), more_help() if more_help else "", sep="\n")
            return 0
        # How long programs take to compile is part of what a dry run tells.
        set_up(given.verbose, keep_programs="dry_run" not in given or not given.dry_run)
        # An installed command does not look in the folder that it runs in, where the user's parts are.
        if not {"", os.getcwd()} & set(sys.path):
            sys.path.append(os.getcwd())
        _join_processes(given)
        with _warnings(given.verbose):
            act(given)
        sys.stdout.flush()
        wait_for_all("the end")
    except UserError as error:
        # Flags may be what cannot be read.
        if "--debug" in arguments:
            traceback.print_exception(error)
        print(" ".join(["error:", *str(error).split()]), file=sys.stderr, flush=True)
        return 2
    except BrokenPipeError:
        # The reader has read enough, as `head` does; Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as error:
        print(f"interrupted; {error}" if str(error) else "interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _parse(define: Callable[[Definitions], None], arguments: Sequence[str]) -> FlagValues:
    known = FlagValues()
    with config_file.refusing(arguments):
        expanded = known.read_flags_from_files(arguments, force_gnu=False)
        definitions = Definitions(known, expanded)
        definitions.common()
        define(definitions)
        rest = known(["", *expanded])
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}; flags begin with --")
    return known


@functools.cache
def set_up(verbose: bool = False, keep_programs: bool = True) -> None:
    """Set what a command may set for its whole process, and a library may not: logs, figures, compiled programs.

    Args:
      verbose: whether other libraries' logs are shown.
      keep_programs: whether compiled programs are kept for other commands, see `compilation_cache`.
    """
    if keep_programs:
        compilation_cache.use()
    # Orbax and its helpers log every save and restore; what fails comes as an exception.
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO if verbose else logging.FATAL)
    matplotlib.use("Agg")
    has_compiler = importlib.util.find_spec("libtpu") is not None
    if has_compiler and not os.environ.get("JAX_PLATFORMS") and not any(map(os.path.exists, _ACCELERATORS)):
        # TPU's compiler is installed for --topology alone; JAX would look for TPUs, and warn of there being none.
        jax.config.update("jax_platforms", "cpu")


@contextmanager
def _warnings(verbose: bool) -> Iterator[None]:
    """Show warnings of this package alone, unless they are wanted, or Python was told which to show."""
    with warnings.catch_warnings():
        if not verbose and not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", module=r"dpm_jax\.")
        yield


def _join_processes(given: FlagValues) -> None:
    """Join the other processes, where there are several, at the first call in this process.

    Raises:
      UserError: if some of the flags are missing, or the other processes cannot be reached.
    """
    stated = {name: given[name].value for name in ("coordinator_address", "num_processes", "process_id")}
    values = {name: value for name, value in stated.items() if value is not None}
    if values and len(values) < len(stated):
        absent = next(name for name in stated if name not in values)
        raise UserError(f"--{absent}: missing; --coordinator_address, --num_processes and --process_id go together")
    wanted = given.distributed
    if wanted is None:
        wanted = bool(values) or _on_slurm() or _on_tpu()
    if not wanted or jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(**values, shutdown_timeout_seconds=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"--distributed: {error}; --nodistributed runs this process by itself") from None
    if jax.process_index() > 0:
        # The first process prints for all; the others print errors alone.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def _on_slurm() -> bool:
    return int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ


def _on_tpu() -> bool:
    """Return whether this host has a TPU: it learns how many other hosts there are from `jax.distributed`."""
    devices = Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists()
    return devices and importlib.util.find_spec("libtpu") is not None


def checkpoint(given: FlagValues) -> Which:
    """Return the checkpoint that --checkpoint selects.

    Raises:
      UserError: if it is neither newest, best, nor the number of a step.
    """
    text: Any = given.checkpoint
    if text not in ("newest", "best") and not text.isdecimal():
        raise UserError(f"--checkpoint: must be newest, best, or a step, got {text!r}")
    return int(text) if text.isdecimal() else text


def pod(given: FlagValues) -> list[Any] | None:
    """Return the devices that --topology names, None where there is none; to be called before JAX has looked for any.

    Raises:
      UserError: as `pod.devices`, or if nothing would be compiled for them.
    """
    if given.topology is None:
        return None
    if not given.dry_run:
        raise UserError("--topology: needs --dry_run")
    return pods.devices(given.topology)


def print_cost(
    program: Callable[..., Program], devices: list[Any] | None, settings: Any = None, batch_size: int | None = None
) -> None:
    """Compile a program, and print what it costs.

    Args:
      program: on= -> the program, see `programs`.
      devices: as of `pod`.
      settings: as of `mesh_context`.
      batch_size: as of `mesh_context`.

    Raises:
      UserError: as `mesh_context`, or if it does not fit.
    """
    with ExitStack() as context:
        on = context.enter_context(mesh_context(settings, batch_size, devices))
        compiled = program(on=on)
        print(cost.table(compiled, cost.measure(compiled, devices)))


def mesh_context(
    settings: Any = None, batch_size: int | None = None, devices: list[Any] | None = None
) -> AbstractContextManager[Any]:
    """Return the context in which the mesh of all devices is set; it yields that of a pod.

    Args:
      settings: `data` and `fsdp`, see `mesh.make`; its defaults if None.
      batch_size: number of examples that the devices must divide, if any.
      devices: of a `pod`; those that are here if None.

    Raises:
      UserError: if the axes do not multiply to the devices, or the devices do not divide the batch.
    """
    axes: dict[str, int] = dict(settings or {})
    try:
        context = mesh.over_all_devices(**axes) if devices is None else pods.meshed(mesh.make(**axes, devices=devices))
    except ValueError as error:
        raise UserError(f"config.{error}") from None
    num = jax.device_count() if devices is None else len(devices)
    if batch_size is not None and batch_size % num:
        raise UserError(
            f"config.train.batch_size: each part of it (train.accumulate) must be divisible by the {num} devices, got "
            f"{batch_size}"
        )
    return context


@contextmanager
def outputs(where: Path) -> Iterator[Path]:
    """Yield a folder to write results into: the first process moves them to `where`, the others delete them.

    So all processes run the same programs, as they have to, and every file is written once.
    """
    if jax.process_index() == 0:
        with Staged(where) as staged:
            yield staged.folder
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
