"""The same run on 1 to 8 devices, and in two processes: the same losses, samples and bounds, parameters shared out.

Devices are forced on the CPU, and each run is a process of its own. Sums over examples are taken in another order on
another number of devices, and training passes the last bits of float32 on from step to step: hence the tolerance.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from dpm_jax.training import mesh
from tests.real_data import needs_grain

ROOT = Path(__file__).parent.parent
# Relative error of losses after 24 steps: some hundred roundings of 6e-8.
TOLERANCE = 2e-5


def environment(devices):
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}


def start(out, devices, *flags):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.on_devices", str(out), *flags],
        cwd=ROOT,
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    for process in processes:
        printed, _ = process.communicate(timeout=600)
        assert process.returncode == 0, printed


def outcome(out):
    with np.load(out / "arrays.npz") as file:
        arrays = dict(file)
    return json.loads((out / "told.json").read_text()), arrays


def port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(out, devices, *flags, processes=1):
    if processes == 1:
        finish(start(out, devices, *flags))
    else:
        told = [f"--coordinator=127.0.0.1:{port()}", f"--num_processes={processes}"]
        finish(*(start(out, devices, *flags, *told, f"--process_id={i}") for i in range(processes)))
    return outcome(out)


def same(found, expected):
    np.testing.assert_allclose(found[0]["losses"], expected[0]["losses"], rtol=TOLERANCE)
    np.testing.assert_allclose(found[0]["bound"], expected[0]["bound"], rtol=TOLERANCE)
    for name in expected[1]:
        scale = np.abs(expected[1][name]).max()
        np.testing.assert_allclose(found[1][name], expected[1][name], atol=100 * TOLERANCE * scale, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("alone"), 1)


@pytest.fixture(scope="module")
def images_alone(tmp_path_factory):
    return run(tmp_path_factory.mktemp("images"), 1, "--images")


@pytest.mark.parametrize(("devices", "fsdp"), [(2, 1), (4, 4), (8, 2)])
def test_devices_change_nothing_but_roundings(devices, fsdp, alone, tmp_path):
    found = run(tmp_path, devices, f"--fsdp={fsdp}")
    same(found, alone)
    assert found[0]["devices"] == devices
    # Large kernels are shared out, biases are not.
    shared = [place for place in found[0]["placed"] if "fsdp" in place]
    assert bool(shared) == (fsdp > 1)


def test_two_processes_are_one_machine_of_all_their_devices(alone, tmp_path):
    found = run(tmp_path, 2, "--fsdp=2", processes=2)
    assert found[0]["devices"] == 4
    same(found, alone)


@needs_grain
def test_batches_from_the_host_are_shared_out(images_alone, tmp_path):
    same(run(tmp_path / "devices", 4, "--images"), images_alone)
    same(run(tmp_path / "processes", 2, "--images", processes=2), images_alone)


def test_a_run_goes_on_with_other_devices(alone, tmp_path):
    """Train 12 of 24 steps on one device, and the rest in two processes of two devices."""
    import shutil

    run(tmp_path / "half", 1)
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "24")
    (tmp_path / "half" / "told.json").unlink()
    found = run(tmp_path / "half", 2, "--fsdp=4", processes=2)
    np.testing.assert_allclose(found[0]["losses"], alone[0]["losses"], rtol=TOLERANCE)
    same(found, alone)


@given(shape=st.lists(st.integers(1, 600), max_size=4).map(tuple), fsdp=st.sampled_from([1, 2, 3, 4, 8, 16]))
def test_the_largest_axis_that_divides_is_shared_out(shape, fsdp):
    spec = mesh.sharding(shape, fsdp)
    shared = [axis for axis, name in enumerate(spec) if name == "fsdp"]
    fitting = [size for size in shape if size % fsdp == 0]
    if fsdp == 1 or np.prod(shape, dtype=float) < 2**14 or not fitting:
        assert spec == PartitionSpec()
    else:
        assert [shape[axis] for axis in shared] == [max(fitting)]


def test_properties_of_meshes_of_eight_devices():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/eight_devices.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment(8), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout


def test_without_a_mesh_nothing_is_done():
    x = jnp.ones((3, 2))
    assert mesh.spread(x) is x
    assert mesh.gather(x) is x
    assert mesh.shard(x) is x
    assert mesh.share(6) == (0, 1)
    assert mesh.placement((3,)) == jax.sharding.SingleDeviceSharding(jax.devices()[0])


@pytest.mark.parametrize(("data", "fsdp"), [(3, 1), (1, 2), (0, 1), (-1, 3), (2, -1)])
def test_meshes_that_are_not_the_devices_are_refused(data, fsdp):
    with pytest.raises(ValueError, match="must be the 1 devices there are"):
        mesh.make(data, fsdp)
