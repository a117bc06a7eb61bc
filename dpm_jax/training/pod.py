"""TPU pods that are not here, for TPU's compiler: programs are compiled for them, and not run."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from dpm_jax.errors import UserError

__all__ = ["devices", "meshed"]

# Variables that the compiler would otherwise ask a TPU host for.
_ALONE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    # Several may compile at once; one that was killed leaves a lock behind.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Chips of two cores that work as one device, as JAX has them on a TPU's host.
_TWO_CORES = ("v4", "v5p")


def devices(topology: str) -> list[Any]:
    """Return the devices of a pod slice, for the compiler alone.

    In this process, environment variables that the compiler reads are set, and everything else runs on the CPU.

    Args:
      topology: its kind and chips along each axis, such as "v5e:2x4", "v6e:4x4", "v4:2x2x4", "v5p:2x2x2".

    Raises:
      UserError: if there is no such topology, or the package with the compiler is missing.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("--topology: needs the package with TPU's compiler: pip install 'jax[tpu]'")
    # Without TPUs, JAX puts warnings into these on being imported.
    os.environ.update(_ALONE)
    jax.config.update("jax_platforms", "cpu")
    kind = topology.split(":")[0]
    options = {"chip_config_name": "megacore"} if kind in _TWO_CORES else {}
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except jax.errors.JaxRuntimeError as error:
        message = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise UserError(f"--topology: must be such as v5e:2x4 or v4:2x2x4, got {topology!r} ({message})") from None
    found: list[Any] = list(described.devices)
    return found


@contextmanager
def meshed(made: Mesh) -> Iterator[Mesh]:
    """Yield the mesh of such devices; within, functions of `mesh` are traced for it, and nothing can be run."""
    with jax.sharding.use_abstract_mesh(made.abstract_mesh):
        yield made
