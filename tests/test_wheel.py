"""The wheel: what is in it, and that it works outside the repository, with and without what training needs."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel of a copy of the files that git does not ignore."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    ).stdout.decode()
    if not listed:
        pytest.skip("needs a checkout, which says what a release has")
    for name in listed.split("\0")[:-1]:
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={out}", str(source)]
    subprocess.run(command, check=True, cwd=out)
    (path,) = out.glob("*.whl")
    return path


def environment(folder, wheel, *packages):
    """Make a virtual environment with the wheel in it, and return its folder of commands."""
    venv.create(folder, with_pip=False)
    scripts = folder / "bin"
    install = [sys.executable, "-m", "pip", f"--python={scripts / 'python'}", "install", "--quiet"]
    subprocess.run([*install, *packages, str(wheel)], check=True, cwd=folder)
    return scripts


def test_it_has_commands_configs_and_types_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"dpm_jax"}
    for name in ("py.typed", "configs/mnist.py", "cli/train.py", "trained/heartbeat/params.npz"):
        assert f"dpm_jax/{name}" in names, name
    assert wheel.stat().st_size < 3 * 2**20


def test_its_commands_train_evaluate_and_sample_in_another_folder(wheel, tmp_path):
    """The other packages are those of this environment; the library is the wheel's."""
    scripts = environment(tmp_path / "venv", wheel, "--no-deps")
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    work = tmp_path / "work"
    work.mkdir()

    def command(name, *arguments):
        done = subprocess.run([scripts / name, *arguments], cwd=work, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = command("python", "-c", "import dpm_jax; print(dpm_jax.__file__, dpm_jax.__version__)")
    assert where.startswith(str(site))
    version = where.split()[-1]
    assert f"dpm_jax-{version}-" in wheel.name
    quick = ("--config.train.steps=20", "--config.num_timesteps=20", "--config.evaluate.num_examples=100")
    command("dpm-train", "--workdir=roll", *quick)
    command("dpm-evaluate", "--workdir=roll", "--num_examples=100", "--ais_k=0")
    command("dpm-sample", "--workdir=roll", "--num_samples=10", "--out=samples")
    assert (work / "samples" / "samples.npz").exists()
    command("dpm-sample", "--workdir=example:heartbeat", "--num_samples=10")


def test_it_needs_jax_and_numpy_alone_and_says_what_else_needs(wheel, tmp_path):
    scripts = environment(tmp_path / "venv", wheel)
    code = """
import jax, jax.numpy as jnp
from dpm_jax import Gaussian, bound, optimal, sample, schedules
model = optimal.normal(Gaussian(schedules.geometric(20, beta_1=0.01)), jnp.zeros(2), jnp.eye(2))
assert sample(jax.random.key(0), model, 10, (2,)).shape == (10, 2)
assert bound.evaluate(jax.random.key(1), model, jnp.ones((10, 2))).k.shape == (10,)
import dpm_jax
try:
    dpm_jax.load("anything")
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([scripts / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("dpm_jax.load needs ")
    assert done.stdout.endswith(": pip install 'dpm_jax[train]'\n")
    listed = subprocess.run([sys.executable, "-m", "pip", f"--python={scripts / 'python'}", "list", "--format=freeze"],
                            capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert {line.split("==")[0] for line in listed.split()} <= {
        "dpm_jax", "dpm-jax", "jax", "jaxlib", "ml_dtypes", "numpy", "opt_einsum", "scipy", "setuptools"
    }  # fmt: skip
    refused = subprocess.run([scripts / "dpm-train"], cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: dpm-train needs ")
    assert refused.stderr.count("\n") == 1
