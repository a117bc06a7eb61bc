"""The devices of a run, as a mesh of two axes: examples are spread over both, large arrays over `fsdp`.

The mesh is JAX's own ambient one, `jax.set_mesh(mesh.make(...))`. Within it, `spread` pins the batch axis of what goes
into a network, and XLA shares out all that leads there and follows. Without a mesh nothing here does anything: the
functions of this project are the same on one device. The numbers are those of one device, too, but for the
order that sums over examples are taken in: random numbers are functions of key and place in the global array.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

__all__ = [
    "AXES",
    "from_processes",
    "gather",
    "make",
    "over_all_devices",
    "placement",
    "shard",
    "sharding",
    "share",
    "spread",
]

AXES = ("data", "fsdp")

# Smaller arrays are kept whole on every device: sharing them out would cost more than it saves.
_SMALLEST = 2**14

Tree = TypeVar("Tree")


def make(data: int = -1, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Return a mesh of all devices of all processes, with the axes `AXES`.

    Args:
      data: devices along the first axis; -1: as many as are left.
      fsdp: along the second, likewise.
      devices: others than those that are here.

    Raises:
      ValueError: if the two do not multiply to the number of devices.
    """
    num = jax.device_count() if devices is None else len(devices)
    if data == -1:
        data = max(num // fsdp, 1) if fsdp > 0 else 1
    if fsdp == -1:
        fsdp = max(num // data, 1)
    if data < 1 or fsdp < 1 or data * fsdp != num:
        raise ValueError(f"mesh: data {data} x fsdp {fsdp} must be the {num} devices there are")
    return jax.make_mesh((data, fsdp), AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def over_all_devices(data: int = -1, fsdp: int = 1) -> AbstractContextManager[Any]:
    """Return a context in which the mesh is set; one that does nothing where there is one device.

    Args:
      data: as of `make`.
      fsdp: as of `make`.

    Raises:
      ValueError: as `make`.
    """
    mesh = make(data, fsdp)
    return jax.set_mesh(mesh) if mesh.size > 1 else nullcontext()


def _ambient() -> Any:
    """Return the mesh that is set; None where there is none, or it is none of ours."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if set(AXES) <= set(mesh.axis_names) else None


def _pin(x: Array, spec: PartitionSpec) -> Array:
    pinned: Array = jax.lax.with_sharding_constraint(x, spec)
    return pinned


def spread(x: Array) -> Array:
    """x [B, ...], its batch axis over all devices; B need not be divisible by their number."""
    if _ambient() is None:
        return x
    return _pin(x, PartitionSpec(AXES))


def sharding(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """Where an array of the state lies: its largest axis that `fsdp` divides is shared out, if it is worth it.

    Args:
      shape: of the array.
      fsdp: devices along that axis of the mesh.
    """
    fitting = [axis for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or not fitting or math.prod(shape) < _SMALLEST:
        return PartitionSpec()
    largest = max(fitting, key=lambda axis: shape[axis])
    return PartitionSpec(*("fsdp" if axis == largest else None for axis in range(largest + 1)))


def placement(shape: tuple[int, ...], on: Mesh | None = None) -> Sharding:
    """Where `shard` puts an array of this shape; on the first device where there is no mesh.

    Args:
      shape: of the array.
      on: a mesh of other devices than those that are here; the mesh that is set if None.
    """
    if on is None and _ambient() is None:
        return SingleDeviceSharding(jax.devices()[0])
    mesh = on or jax.sharding.get_mesh()
    return NamedSharding(mesh, sharding(shape, mesh.shape["fsdp"]))


def shard(state: Tree) -> Tree:
    """Every array of a pytree where `sharding` puts it; to be called under `jit`."""
    mesh = _ambient()
    if mesh is None:
        return state
    num = mesh.shape["fsdp"]
    return jax.tree.map(lambda a: _pin(a, sharding(a.shape, num)), state)  # type: ignore[no-any-return]


def share(batch_size: int) -> tuple[int, int]:
    """(p, n): of the batch, cut into n parts of one size, this process's devices hold the p-th.

    Raises:
      ValueError: if the batch can't be shared out evenly.
    """
    num = jax.process_count()
    if batch_size % jax.device_count():
        raise ValueError(f"a batch of {batch_size} can't be shared out evenly among {jax.device_count()} devices")
    if num == 1 or _ambient() is None:
        return 0, 1
    where = NamedSharding(jax.sharding.get_mesh(), PartitionSpec(AXES))
    indices: Any = where.addressable_devices_indices_map((batch_size,)).values()
    rows = sorted(index[0].indices(batch_size)[:2] for index in indices)
    size = batch_size // num
    together = all(before[1] == after[0] for before, after in itertools.pairwise(rows))
    # Where a process's devices do not lie side by side, the batch is the same but for its order.
    return (rows[0][0] // size if together else jax.process_index()), num


def from_processes(local: np.ndarray, axis: int) -> Array | np.ndarray:
    """Return the global array whose part along `axis` each process gives, as `share` says; spread over all devices."""
    if jax.process_count() == 1:
        return local
    where = NamedSharding(jax.sharding.get_mesh(), PartitionSpec(*(None,) * axis, AXES))
    whole: Array = jax.make_array_from_process_local_data(where, local)
    return whole


def gather(tree: Tree) -> Tree:
    """Every array whole on every device, so that each process can read it; to be called under `jit`, at its end."""
    if _ambient() is None:
        return tree
    return jax.tree.map(lambda a: _pin(a, PartitionSpec()), tree)  # type: ignore[no-any-return]
