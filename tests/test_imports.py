"""Importing the package, its commands too, changes nothing of the process that imports it."""

import subprocess
import sys

_SCRIPT = """
import importlib, locale, logging, os, pkgutil, signal, sys, warnings
import absl.flags, absl.logging, flax.linen, jax, matplotlib.pyplot, ml_collections, numpy, optax, orbax.checkpoint
import PIL.Image, tqdm


def state():
    return {
        "environment": dict(os.environ),
        "backend": matplotlib.rcParams._get("backend"),
        "absl": absl.logging.get_verbosity(),
        "log": [logging.root.level, list(logging.root.handlers)],
        "flags": sorted(absl.flags.FLAGS),
        "jax": dict(jax.config.values),
        "warnings": list(warnings.filters),
        "numpy": numpy.geterr(),
        "hooks": [sys.excepthook, sys.stdout, sys.stderr],
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "here": os.getcwd(),
    }


before = state()
import dpm_jax
names = [module.name for module in pkgutil.walk_packages(dpm_jax.__path__, "dpm_jax.")]
names = [name for name in names if not name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
after = state()
assert len(names) > 60
changed = [name for name in before if before[name] != after[name]]
sys.exit(f"changed: {changed}" if changed else 0)
"""


def test_importing_changes_nothing():
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
