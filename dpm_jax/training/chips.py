"""Peak rates of accelerators, as their makers state them."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CHIPS", "Chip", "chip"]


class Chip(NamedTuple):
    """Peak rates of a device.

    Attributes:
      flops: operations a second of its matrix units, bfloat16.
      bandwidth: bytes a second to and from its memory.
      memory: bytes.
      link: bytes a second of one link to another chip, one way; None where that depends on the machine.
      clock: cycles a second; None where it is not one.
    """

    flops: float
    bandwidth: float
    memory: float
    link: float | None = None
    clock: float | None = None


_GIB = 2.0**30

# As JAX names TPUs, of which some have two names; of GPUs a part of the name.
CHIPS = {
    "TPU v4": Chip(275e12, 1228e9, 32 * _GIB, 45e9, 1.05e9),
    "TPU v5 lite": Chip(197e12, 819e9, 16 * _GIB, 45e9, 1.5e9),
    "TPU v5p": Chip(459e12, 2765e9, 95 * _GIB, 90e9, 1.75e9),
    "TPU v6 lite": Chip(918e12, 1640e9, 32 * _GIB, 90e9, 1.75e9),
    "A100": Chip(312e12, 2039e9, 80 * _GIB),
    "H100": Chip(989e12, 3350e9, 80 * _GIB),
    "H200": Chip(989e12, 4800e9, 141 * _GIB),
}
_ALSO = {"TPU v5e": "TPU v5 lite", "TPU v5": "TPU v5p", "TPU v6e": "TPU v6 lite"}


def chip(device_kind: str) -> Chip | None:
    """Return the peak rates of a device; None if it is unknown."""
    if device_kind.startswith("TPU"):
        return CHIPS.get(_ALSO.get(device_kind, device_kind))
    return next((value for name, value in CHIPS.items() if name in device_kind), None)
