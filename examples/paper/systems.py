"""The paper's systems, what it reports of them, and the commands that train them here."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DEAD_LEAVES", "PARZEN", "SYSTEMS", "System"]


class System(NamedTuple):
    """One row of the paper's table 1.

    Attributes:
      config: of `train.py`.
      title: of the row.
      unit: of K.
      k, gain: K and K - L_null of the paper; None where it gives none.
      parzen: whether the Parzen-window estimate is computed, too.
      files: what must be given: "data_dir", "photograph" or nothing.
    """

    config: str
    title: str
    unit: str
    k: str | None
    gain: str | None
    parzen: bool = False
    files: str = ""


SYSTEMS = (
    System("swiss_roll", "Swiss roll", "bits/point", "2.35", "6.45"),
    System("heartbeat", "Binary heartbeat", "bits/sequence", "-2.414", "12.024"),
    System("bark", "Bark", "bits/pixel", "-0.55", "1.5", files="photograph"),
    System("dead_leaves", "Dead leaves", "bits/pixel", "1.489", "3.536"),
    System("cifar10", "CIFAR-10", "bits/pixel", "5.4 ± 0.2", "11.5 ± 0.2", files="data_dir"),
    System("mnist", "MNIST, for samples", "bits/pixel", None, None, parzen=True, files="data_dir"),
    System("mnist_bits", "MNIST, for bits", "bits/pixel", None, None, files="data_dir"),
)

# Table 2: K - L_null of dead leaves in bits/pixel, and Parzen-window estimates of MNIST in bits, by others.
DEAD_LEAVES = (("MCGSM (Theis et al. 2012)", "1.244"), ("the paper", "1.489"))
PARZEN = (
    ("Stacked CAE (Bengio et al. 2013)", "174 ± 2.3"),
    ("DBN (Bengio et al. 2013)", "199 ± 2.9"),
    ("Deep GSN (Bengio et al. 2014)", "309 ± 1.6"),
    ("the paper", "317 ± 2.7"),
    ("Adversarial net (Goodfellow et al. 2014)", "325 ± 2.9"),
)
