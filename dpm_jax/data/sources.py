"""Where data come from: one type for all systems, so that training knows none of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dpm_jax.data import arrays, heartbeat, swiss_roll
from dpm_jax.data.standardization import Standardization, fit, identity

__all__ = ["Source", "file", "heartbeat_source", "swiss_roll_source"]


class Source(NamedTuple):
    """A distribution over examples, in the model's units, drawn from on the device.

    Attributes:
      shape: of one example.
      unit: what K is a number of, for tables ("bits/point", ...).
      sample: (key, num) -> [num, *shape] to train on; traceable.
      held_out: (key, num) -> [num, *shape] never trained on.
      num_held_out: how many of those exist; None where there is no end.
      standardization: between the model's units and the data's own.
      log_prob: [B, *shape] -> [B] exact log-density in nats; None where unknown.
      mean_log_prob: E log p(x) in nats, the limit of K; None where unknown.
      support: [n, *shape] all values, equally likely; None where there are too many.
    """

    shape: tuple[int, ...]
    unit: str
    sample: Callable[[Array, int], Array]
    held_out: Callable[[Array, int], Array]
    num_held_out: int | None
    standardization: Standardization
    log_prob: Callable[[Array], Array] | None
    mean_log_prob: Callable[[], float] | None
    support: Array | None


def swiss_roll_source(noise: float) -> Source:
    """The swiss roll; see `swiss_roll`."""
    nodes = swiss_roll.quadrature(noise)
    sample = partial(swiss_roll.sample, noise=noise)
    return Source(
        shape=(2,),
        unit="bits/point",
        sample=sample,
        held_out=sample,
        num_held_out=None,
        standardization=identity(),
        log_prob=partial(swiss_roll.log_prob, noise=noise, nodes=nodes),
        mean_log_prob=lambda: float(swiss_roll.mean_log_prob(noise, nodes)),
        support=None,
    )


def heartbeat_source(length: int, period: int) -> Source:
    """The binary heartbeat; see `heartbeat`."""
    sample = partial(heartbeat.sample, length=length, period=period)
    return Source(
        shape=(length,),
        unit="bits/sequence",
        sample=sample,
        held_out=sample,
        num_held_out=None,
        standardization=identity(),
        log_prob=partial(heartbeat.log_prob, length=length, period=period),
        mean_log_prob=lambda: -float(np.log(period)),
        support=heartbeat.sequences(length, period),
    )


def file(path: Path, held_out: float, binary: bool) -> Source:
    """Vectors from a `.npy` or `.npz` file, standardised coordinate by coordinate unless binary.

    Args:
      path: see `arrays.load`.
      held_out: fraction of the rows kept back for evaluation.
      binary: whether the kernel wants bits; the file must then hold 0 and 1 alone.

    Raises:
      ValueError: as `arrays.load`, or if bits are wanted and not there, or a coordinate is constant.
    """
    train, kept = arrays.split(arrays.load(path), held_out)
    if binary and not all(np.isin(part, (0, 1)).all() for part in (train, kept)):
        raise ValueError(f"{path} holds other values than 0 and 1, which kernel 'binomial' needs")
    standardization = identity() if binary else fit(train)
    if len(kept) < 2:
        raise ValueError(f"{path} leaves {len(kept)} row to evaluate on; raise config.data.file.held_out")
    rows, kept_rows = (jnp.asarray(standardization.apply(part)) for part in (train, kept))
    return Source(
        shape=train.shape[1:],
        unit="bits/example",
        sample=lambda key, num: rows[jax.random.randint(key, (num,), 0, len(rows))],
        held_out=lambda key, num: jax.random.permutation(key, kept_rows)[:num],
        num_held_out=len(kept),
        standardization=standardization,
        log_prob=None,
        mean_log_prob=None,
        support=None,
    )
