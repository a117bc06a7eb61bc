"""Where the real data lie that some tests need; they are skipped without."""

import importlib.util
import os
from pathlib import Path

import pytest

TFDS_DIR = Path(os.environ.get("TFDS_DATA_DIR", Path.home() / "tensorflow_datasets"))
TEXTURES = Path(os.environ.get("DPM_TEXTURES", "textures"))


def missing(*packages):
    return [name for name in packages if importlib.util.find_spec(name) is None]


needs_grain = pytest.mark.skipif(bool(missing("grain")), reason="needs grain: pip install 'dpm_jax[data]'")


def needs_dataset(name):
    absent = missing("grain", "tensorflow_datasets", "array_record")
    if absent:
        return pytest.mark.skipif(True, reason=f"needs {', '.join(absent)}: pip install 'dpm_jax[data]'")
    reason = f"{name} is not prepared in {TFDS_DIR}; set TFDS_DATA_DIR to where it is"
    return pytest.mark.skipif(not (TFDS_DIR / name).is_dir(), reason=reason)


needs_textures = pytest.mark.skipif(
    not TEXTURES.is_dir(), reason=f"no photographs in {TEXTURES}; set DPM_TEXTURES to a folder with bark012_grey.png"
)
