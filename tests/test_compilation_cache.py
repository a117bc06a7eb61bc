"""Compiled programs are kept from one command to the next, where that is safe."""

import os
import stat
import subprocess
import sys

import jax
import numpy as np
import pytest

from dpm_jax.cli import arguments, compilation_cache
from tests.commands import QUICK, ROOT, run

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture
def untouched(tmp_path, monkeypatch):
    """JAX as if it had not been told where to keep programs, and a cache folder of the test's own."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_folder_is_the_user_s_own(untouched):
    compilation_cache.use()
    where = compilation_cache.folder()
    assert where.is_relative_to(untouched)
    assert jax.config.jax_compilation_cache_dir == str(where)
    assert stat.S_IMODE(where.stat().st_mode) == 0o700


def test_another_processor_has_another_folder(untouched, monkeypatch):
    info = untouched / "cpuinfo"
    info.write_text("processor\t: 0\ncpu MHz\t: 2000\nflags\t: avx avx2\n\nprocessor\t: 1\n")
    monkeypatch.setattr(compilation_cache, "_CPU_INFO", info)
    first = compilation_cache.folder()
    info.write_text("processor\t: 0\ncpu MHz\t: 3000\nflags\t: avx avx2\n\nprocessor\t: 1\n")
    assert compilation_cache.folder() == first
    info.write_text("processor\t: 0\ncpu MHz\t: 2000\nflags\t: avx avx2 avx512f\n\nprocessor\t: 1\n")
    assert compilation_cache.folder() != first


def test_a_folder_that_others_may_write_to_is_not_used(untouched):
    where = compilation_cache.folder()
    where.mkdir(parents=True)
    where.chmod(0o777)
    compilation_cache.use()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_cannot_be_made_is_no_error(untouched):
    (untouched / "dpm_jax").write_text("a file where the folder would be")
    compilation_cache.use()
    assert jax.config.jax_compilation_cache_dir is None


def test_what_the_user_has_set_stays(untouched):
    jax.config.update("jax_compilation_cache_dir", str(untouched / "mine"))
    compilation_cache.use()
    assert jax.config.jax_compilation_cache_dir == str(untouched / "mine")
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        compilation_cache.use()
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert jax.config.jax_compilation_cache_dir is None


def test_the_second_command_finds_what_the_first_compiled(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    del environment["JAX_COMPILATION_CACHE_DIR"]

    def draw(out):
        command = [
            sys.executable,
            ROOT / "sample.py",
            "--workdir=example:swiss_roll",
            "--num_samples=8",
            f"--out={out}",
        ]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)
        programs = {path.name for path in tmp_path.glob("cache/dpm_jax/programs/*/*-cache")}
        return np.load(tmp_path / out / "samples.npz")["samples"], programs

    samples, programs = draw("first")
    assert len(programs) > 5
    again, programs_again = draw("second")
    np.testing.assert_array_equal(again, samples)
    assert programs_again == programs


def test_a_dry_run_compiles_for_itself(monkeypatch):
    """It tells how long that takes."""
    # Commands of other tests may have called it in this process, which calls it once.
    arguments.set_up.cache_clear()
    monkeypatch.setattr(compilation_cache, "use", lambda: pytest.fail("a dry run keeps its programs"))
    assert run("train", *QUICK, "--dry_run").code == 0
