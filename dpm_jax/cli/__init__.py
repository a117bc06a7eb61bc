"""Commands: train, evaluate, sample; installed as dpm-train, dpm-evaluate and dpm-sample.

They need the extra `train`: pip install 'dpm_jax[train]'.
"""

from __future__ import annotations

import importlib
import sys

from dpm_jax.errors import missing_extra

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


def _run(name: str) -> int:
    try:
        command = importlib.import_module(f"dpm_jax.cli.{name}")
    except ModuleNotFoundError as error:
        print("error:", missing_extra(f"dpm-{name}", error), file=sys.stderr)
        return 2
    code: int = command.main()
    return code
