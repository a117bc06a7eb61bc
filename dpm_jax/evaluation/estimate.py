"""Means with their standard errors, which reports are made of, and the keys that they have in files."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ["Estimate", "keyed"]


class Estimate(NamedTuple):
    """A mean and its standard error: numbers, or float64 arrays of one shape.

    Attributes:
      mean: None where it is unknown.
      stderr: None where it is unknown.
    """

    mean: Any = None
    stderr: Any = None

    @classmethod
    def of(cls, values: Any) -> Estimate:
        """Estimate the mean of independent values.

        Args:
          values: [..., N], examples on the last axis; None if they are unknown. The standard error is unknown if N is 1
            or a value is not finite.
        """
        if values is None:
            return cls()
        values = np.asarray(values, np.float64)
        num = values.shape[-1]
        known = num > 1 and np.isfinite(values).all()
        return cls(values.mean(-1), values.std(-1, ddof=1) / np.sqrt(num) if known else None)

    def at(self, index: int) -> Estimate:
        """Return one estimate of an array of them."""
        return Estimate(*(None if part is None else part[index] for part in self))


def keyed(report: Any) -> Any:
    """Return a report, a named tuple, as a dict of what its files hold, for `storage.write_json`.

    An estimate is two entries: `bound_bits` and `bound_stderr_bits`; `restored` and `restored_stderr`. Reports inside a
    report, and in lists, are dicts as well.
    """
    if isinstance(report, list):
        return [keyed(part) for part in report]
    if not hasattr(report, "_asdict"):
        return report
    found: dict[str, Any] = {}
    for name, value in report._asdict().items():
        if isinstance(value, Estimate):
            found |= {name: value.mean, _stderr_key(name): value.stderr}
        else:
            found[name] = keyed(value)
    return found


def _stderr_key(name: str) -> str:
    """Return the key of the standard error: `stderr` before the unit bits or nats, and at the end of other names."""
    if name.endswith(("bits", "nats")):
        return f"{name[:-4]}stderr_{name[-4:]}"
    # `discrete_bits_per_dim` goes with `discrete_stderr`.
    return f"{name.removesuffix('_bits_per_dim')}_stderr"
