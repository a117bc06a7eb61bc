"""Compiled programs, kept from one command to the next in a folder of the user's.

A program for one kind of processor may not run on another, and home folders are shared: each kind has a folder. Files
there are loaded as code, so a folder that others may write to is not used.
"""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax
from absl import logging

__all__ = ["folder", "use"]

# All programs of one kind of processor, bytes; those that were not used for longest are removed.
_MOST = 2**30
_CPU_INFO = Path("/proc/cpuinfo")


def _processor() -> str:
    """Return a name of this kind of processor: its model and the instructions that it has."""
    parts = [platform.system(), platform.machine(), platform.processor()]
    if _CPU_INFO.exists():
        # All cores are alike; clock rates and the like change from moment to moment.
        first = _CPU_INFO.read_text().split("\n\n")[0].splitlines()
        kept = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ")
        parts += [line for line in first if line.startswith(kept)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def folder() -> Path:
    """Return the folder of this kind of processor; it may not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dpm_jax" / "programs" / _processor()


def use() -> None:
    """Have JAX keep what it compiles, unless it was told where to, or not to.

    `JAX_COMPILATION_CACHE_DIR` names another folder, and `JAX_ENABLE_COMPILATION_CACHE=false` leaves it out.
    """
    settings: Any = jax.config
    if not settings.jax_enable_compilation_cache or settings.jax_compilation_cache_dir:
        return
    try:
        where = folder()
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = where.stat()
    # Without a home folder, or on a full or read-only disk, each command compiles for itself.
    except (OSError, RuntimeError) as error:
        logging.info("compiled programs are not kept: %s", error)
        return
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
        logging.info("compiled programs are not kept: others may write to %s", where)
        return
    jax.config.update("jax_compilation_cache_dir", str(where))
    jax.config.update("jax_compilation_cache_max_size", _MOST)
    # A command has a hundred small programs beside the few large ones.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
