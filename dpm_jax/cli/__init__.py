"""Commands: train, evaluate, sample; installed as dpm-train, dpm-evaluate and dpm-sample.

They need the extra `train`: pip install 'dpm_jax[train]'.
"""

from __future__ import annotations

import importlib.util
import os
import sys

import jax

__all__ = ["evaluate_command", "sample_command", "train_command"]


def train_command() -> int:
    """Run dpm-train with the arguments of the process, and return its exit code."""
    return _run("train")


def evaluate_command() -> int:
    """Run dpm-evaluate with the arguments of the process, and return its exit code."""
    return _run("evaluate")


def sample_command() -> int:
    """Run dpm-sample with the arguments of the process, and return its exit code."""
    return _run("sample")


# Files by which a machine with an accelerator is known.
_ACCELERATORS = ("/dev/accel0", "/dev/vfio/0", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")


def _run(name: str) -> int:
    chosen = os.environ.get("JAX_PLATFORMS")
    if not chosen and importlib.util.find_spec("libtpu") is not None and not any(map(os.path.exists, _ACCELERATORS)):
        # TPU's compiler is installed for --topology alone; JAX would look for TPUs, and warn of there being none.
        jax.config.update("jax_platforms", "cpu")
    try:
        command = importlib.import_module(f"dpm_jax.cli.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("dpm_jax"):
            raise
        print(f"error: dpm-{name} needs {error.name}: pip install 'dpm_jax[train]'", file=sys.stderr)
        return 2
    code: int = command.main()
    return code
