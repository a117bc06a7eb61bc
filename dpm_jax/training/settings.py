"""How to train: the settings of a config that belong to no part."""

from __future__ import annotations

import dataclasses

from dpm_jax.numerics import refuse

__all__ = ["Evaluate", "Train"]


@dataclasses.dataclass(frozen=True)
class Train:
    """The section `train` of a config.

    Attributes:
      steps: optimizer steps of the whole run.
      batch_size: examples of a step.
      accumulate: parts that a batch is cut into, one after another; the gradient is their mean.
      objective: "bound" (-K); "limit" (-K of infinitely many steps); "simple", "hybrid" and "sample_mse" of
        `objectives`; "restoration" of cold chains; or "package.module:callable", a function
        (key, model, x_0) -> scalar, with `edge` and `time_sampler` if it takes them.
      options: keyword arguments of the objective, such as "num_times=2" of the bound.
      time_sampler: which t to look at: a function of `timesteps`, "importance", or "package.module:callable".
      emphasis: t counts (1 - alpha_bar_t)^emphasis: less of the finest noise; 0 for the bound itself.
      log_every: steps between two lines of the log, and the most steps of a dispatch.
      checkpoint_every: steps between two checkpoints.
      keep_every: checkpoints at its multiples stay for good, beside the newest two and the best; 0 for none.
      max_skipped: steps whose loss is not finite are skipped; as many in a row end the training.

    Raises:
      ValueError: if a value is out of its range.
    """

    steps: int = 2500
    batch_size: int = 1024
    accumulate: int = 1
    objective: str = "bound"
    options: str = ""
    time_sampler: str = "low_discrepancy"
    emphasis: float = 0.0
    log_every: int = 100
    checkpoint_every: int = 1000
    keep_every: int = 0
    max_skipped: int = 10

    def __post_init__(self) -> None:
        refuse.within("[2, inf)", batch_size=self.batch_size)
        refuse.within("[0, inf)", emphasis=self.emphasis, keep_every=self.keep_every)
        for name in ("steps", "accumulate", "log_every", "checkpoint_every", "max_skipped"):
            refuse.within("[1, inf)", **{name: getattr(self, name)})
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: must divide the batch of {self.batch_size}, got {self.accumulate}")


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """The section `evaluate` of a config.

    Attributes:
      num_examples: held-out examples that are evaluated, at most.
      num_times: t of each example that K is estimated from, one of each of as many stretches; 0 for all of 2..T.
      num_samples: images shown in the figure.

    Raises:
      ValueError: if a value is out of its range.
    """

    num_examples: int = 20_000
    num_times: int = 0
    num_samples: int = 64

    def __post_init__(self) -> None:
        refuse.within("[2, inf)", num_examples=self.num_examples)
        refuse.within("[0, inf)", num_times=self.num_times)
        refuse.within("[1, inf)", num_samples=self.num_samples)
