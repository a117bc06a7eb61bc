"""Tests, their workers and the commands they start share what XLA has compiled: most of their time is compilation."""

import atexit
import os
import tempfile

import pytest

# Files that `make test` leaves to `make test-all`: they train or serve for minutes.
SLOW = {
    "test_buckets",
    "test_classifier",
    "test_cold_commands",
    "test_experiments",
    "test_frechet",
    "test_image_runs",
    "test_likelihood_report",
    "test_mnist_experiments",
    "test_posterior_commands",
    "test_respacing_commands",
}

os.environ.setdefault("MPLBACKEND", "Agg")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _FOLDER = tempfile.TemporaryDirectory(prefix="dpm_jax_compiled_")
    atexit.register(_FOLDER.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _FOLDER.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)
