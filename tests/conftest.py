"""Tests, their workers and the commands they start share what XLA has compiled: most of their time is compilation."""

import atexit
import os
import tempfile
from pathlib import Path

import pytest

# What `make test` leaves to `make test-all`: files, tests, and single cases of them, by their node ids.
SLOW = set((Path(__file__).parent / "slow.txt").read_text().splitlines())

os.environ.setdefault("MPLBACKEND", "Agg")
if not any(map(os.path.exists, ("/dev/accel0", "/dev/vfio/0", "/dev/nvidia0"))):
    # TPU's compiler, where it is installed, looks for TPUs, and warns of there being none.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _FOLDER = tempfile.TemporaryDirectory(prefix="dpm_jax_compiled_")
    atexit.register(_FOLDER.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _FOLDER.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def pytest_collection_modifyitems(items):
    for item in items:
        test = item.nodeid.split("[")[0]
        if {item.nodeid, test, test.split("::")[0]} & SLOW:
            item.add_marker(pytest.mark.slow)
