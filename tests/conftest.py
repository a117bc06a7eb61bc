"""Tests, their workers and the commands they start share what XLA has compiled: most of their time is compilation."""

import atexit
import os
import tempfile

os.environ.setdefault("MPLBACKEND", "Agg")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _FOLDER = tempfile.TemporaryDirectory(prefix="dpm_jax_compiled_")
    atexit.register(_FOLDER.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _FOLDER.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
