"""A trained model, in the data's own units.

    run = load("runs/mnist")
    x = run.sample(key, 64)              # [64, 28, 28, 1] uint8
    k = run.bound(key, images)           # k.value [N] nats, k.stderr [N]

The model sees x = (raw - mean) / scale, so its densities are brought back by the change of variables

    log p(raw) = log p(x) - sum over coordinates of log scale,

nats an example. Integers, and pixels among them, are dequantised: raw = v + u, u uniform on [0, 1) in each coordinate,
and P(v) = E_u p(v + u). So a bound on log p(v + u), averaged over u, is a bound on log P(v), the log-probability of
the integers themselves. For bits these are log-probabilities as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from dpm_jax import bound as bound_lib
from dpm_jax import likelihood, respacing
from dpm_jax.data import Standardization
from dpm_jax.errors import UserError
from dpm_jax.evaluation import masks, observations, posterior_samples, samples, short_chains
from dpm_jax.evaluation.examples import check_numbers
from dpm_jax.evaluation.observations import Observations
from dpm_jax.guidance import How
from dpm_jax.model import Model
from dpm_jax.numerics import refuse
from dpm_jax.numerics.shapes import chunk_size
from dpm_jax.training import build, loop, mesh, saved, storage
from dpm_jax.training import experiment as experiment_lib
from dpm_jax.training import workdir as workdir_lib
from dpm_jax.training.checkpoints import Which
from dpm_jax.training.experiment import Experiment, Params
from dpm_jax.training.progress import bar
from dpm_jax.training.workdir import Description
from dpm_jax.units import bits_per_dimension, discrete_bits_per_dimension

__all__ = ["Given", "Measurement", "Run", "load", "quiet"]

# Examples at a time, of small ones.
_BOUND_CHUNK, _TRAJECTORY_CHUNK = 4096, 8192

# (parameters, key, examples [B, ...] in the model's units) -> [B].
_OfExamples = Callable[[Params, Array, Array], Array]


class Measurement(NamedTuple):
    """An estimate for each example, and its standard error over the noise it was estimated with.

    Attributes:
      value: [N] float64; a number for a single example.
      stderr: of the same shape; NaN where a single draw was made.
    """

    value: np.ndarray
    stderr: np.ndarray


class Given(NamedTuple):
    """Observations to condition samples on, in the data's own units; made by `Run.observed` and `Run.noisy`.

    Attributes:
      observations: n of them.
      single: whether it was one example, without a batch axis.
    """

    observations: Observations
    single: bool


class Run:
    """A trained model, in the data's own units. `load` and `fitting.fit` make it.

    Attributes:
      shape: of one example in the data's own units, (d,) or (H, W, C).
      step: optimizer steps that the checkpoint has taken.
      config: what the model was trained with.
      standardization: between the data's own units and the model's.
      experiment: what the config describes: network, loss, optimizer.
      params: the averaged parameters.
    """

    def __init__(self, experiment: Experiment, params: Params, standardization: Standardization, step: int) -> None:
        """Hold what was trained; nothing is computed yet."""
        self.experiment, self.params, self.standardization, self.step = experiment, params, standardization, step
        self.shape = standardization.raw_shape(experiment.shape)
        # Programs by what they are made for: each is compiled once for every shape that it is called with.
        self._programs: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"Run(shape={self.shape}, step={self.step}, num_timesteps={self.model.num_timesteps})"

    @property
    def config(self) -> ConfigDict:
        """Config that the model was trained with."""
        return self.experiment.config

    @property
    def model(self) -> Model:
        """The model in its own units, for `bound`, `sampling`, `guidance` and the rest; see `standardize`."""
        return self.experiment.model(self.params)

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Write the model into a folder: config, units and averaged parameters, for `load` and the commands.

        The optimizer's state is left out, so that training does not resume from it, but can start from it
        (`init_from`).

        Args:
          folder: of this machine or in a bucket; made if missing.
          half: whether parameters are written as float16, in half of the space; they are float32 when loaded.

        Raises:
          UserError: if it is in use by a run, or can't be written.
        """
        where = storage.folder(str(folder))
        if (where / "config.json").exists():
            raise UserError(f"{where}: holds a run already; choose another folder")
        workdir_lib.describe(where, Description(self.config, self.experiment.shape, self.standardization))
        saved.save(where, self.step, self.params, half)

    # --- Units ---

    def standardize(self, x: Any, key: Array | None = None) -> Array:
        """Convert examples to the model's units.

        Args:
          x: `[N, *shape]` in the data's own units, or one example `[*shape]`.
          key: PRNG key of the dequantisation noise, for pixels and integers; if None, they become the middles of their
            steps.

        Returns:
          [N, ...] float32, without a batch axis for one example.

        Raises:
          ValueError: if x does not fit the model, see `bound`.
        """
        centres, single = self._centres(x)
        found = jnp.asarray(centres) if key is None else self.standardization.spread(key, jnp.asarray(centres))
        return found[0] if single else found

    def destandardize(self, x: Any) -> np.ndarray:
        """Convert examples from the model's units to the data's own.

        Args:
          x: [N, ...] or one example, in the model's units.

        Returns:
          float64, integers rounded down from within their steps; pixels are clipped to 0..255, uint8.

        Raises:
          ValueError: if x does not have the model's shape.
        """
        values = np.asarray(x)
        dims = len(self.experiment.shape)
        if values.ndim not in (dims, dims + 1) or values.shape[-1] != self.experiment.shape[-1]:
            raise ValueError(f"x: has shape {values.shape}; the model's examples are {self.experiment.shape}")
        return self.standardization.invert(values)

    def _centres(self, x: Any) -> tuple[np.ndarray, bool]:
        """Examples in the model's units, [N, ...] float32; whether it was one example, without a batch axis."""
        with _value_errors():
            raw, single = observations.fit_examples(np.asarray(x), self.experiment, self.standardization, "x")
        return self.standardization.centres(raw), single

    @property
    def _log_volume(self) -> float:
        """Nats by which log p(x) exceeds log p(raw)."""
        scale = np.broadcast_to(np.asarray(self.standardization.scale, np.float64), self.experiment.shape)
        return float(np.log(scale).sum())

    # --- Sampling ---

    def sample(
        self,
        key: Array,
        num: int,
        *,
        num_steps: int | None = None,
        eta: float | None = None,
        size: int | None = None,
        given: Given | None = None,
        how: How | Literal["default"] = "default",
        num_particles: int = 0,
    ) -> np.ndarray:
        """Sample examples, or examples given what is known of them.

        Args:
          key: PRNG key.
          num: N, how many samples; with `given`, for each of its n observations.
          num_steps: of the chain, evenly spaced; all of the model's if None.
          eta: noise of the steps of DDIM, from 0 (none) to 1; ancestral steps if None.
          size: side of the images, for convolutional networks; that of the training data if None.
          given: what was observed, by `observed` or `noisy`.
          how: the observation acts along the chain, see `guidance`; by default what measured best.
          num_particles: of sequential Monte Carlo, exact as they become many; 0 for the approximate chain.

        Returns:
          `[N, *shape]` in the data's own units: float64, pixels uint8. With `given`, [n, N, *shape]; where one example
          was given, `[N, *shape]`.

        Raises:
          ValueError: if an argument is out of range, or does not go with this model or with another argument.
          UserError: if samples are not finite: the model is not trained well enough.
        """
        refuse.at_least_one(num=num)
        if given is None and (how != "default" or num_particles):
            raise ValueError("how, num_particles: need given")
        shape = self._image_shape(size)
        experiment = self._shortened(num_steps, eta)
        if given is not None:
            if size is not None:
                raise ValueError("size: given images have their own size")
            if self.experiment.is_cold:
                raise ValueError("given: a cold chain has no distribution of its steps, so it cannot be conditioned")
            if eta is not None and (how != "renoised" or num_particles):
                raise ValueError("eta: goes with given only where how='renoised' and num_particles=0")
            return self._sample_given(key, experiment, (num_steps, eta), num, given, how, num_particles)
        compiled = self._program(("sample", num_steps, eta, shape), lambda: samples.sampler(experiment, shape))
        return samples.draw(key, experiment, self.params, self.standardization, num, shape, compiled=compiled)

    def _sample_given(
        self,
        key: Array,
        experiment: Experiment,
        chain: tuple[int | None, float | None],
        num: int,
        given: Given,
        how: How | Literal["default"],
        num_particles: int,
    ) -> np.ndarray:
        seen = given.observations
        if how == "default":
            how = posterior_samples.default_how(experiment, experiment.model(self.params), seen, num_particles)
        plan = posterior_samples.Plan(how, num_particles)
        compiled = self._program(("given", chain, how), lambda: posterior_samples.sampler(experiment, plan))
        with _value_errors():
            found = posterior_samples.draw(
                key, experiment, self.params, self.standardization, seen, num, plan, compiled=compiled
            )
        return found.samples[0] if given.single else found.samples

    def observed(self, y: Any, mask: Any) -> Given:
        """Return the evidence of examples observed in part, without noise, for inpainting.

        Args:
          y: `[n, *shape]` in the data's own units, or one example; values where nothing was observed are ignored.
          mask: True where observed: `[*shape]` for all, or `[n, *shape]`; images without channels, too.

        Raises:
          ValueError: if y or the mask does not fit the model, or nothing is observed, or nothing hidden.
        """
        with _value_errors():
            seen, single = self._batch(y, "y")
            observed = masks.fit(np.asarray(mask), len(seen), seen.shape[1:], "mask")
            masks.check(self.standardization.keep(observed), "mask")
            values = observations.fit_values(seen, observed, "y", self._is_binary, self.standardization)
        return Given(Observations(values, observed, 0.0, None), single)

    def noisy(self, y: Any, sigma: float) -> Given:
        """Return the evidence of examples observed with noise, for denoising.

        Args:
          y: `[n, *shape]` in the data's own units with the noise, or one example.
          sigma: standard deviation of the noise in the data's own units; of bits, the flip probability.

        Raises:
          ValueError: if y does not fit the model, or sigma is out of range.
        """
        highest = 0.5 if self._is_binary else np.inf
        if not 0 < sigma < highest:
            raise ValueError(f"sigma: must lie between 0 and {highest:g}, got {sigma:g}")
        with _value_errors():
            seen, single = self._batch(y, "y")
            whole = np.ones(seen.shape, bool)
            values = observations.fit_values(seen, whole, "y", self._is_binary, self.standardization, noisy=True)
        return Given(Observations(values, whole, float(sigma), None), single)

    def _batch(self, y: Any, name: str) -> tuple[np.ndarray, bool]:
        """As [n, *shape], values not yet checked; whether it was one example."""
        array = np.asarray(y)
        check_numbers(array, name)
        batch = observations.fit_shape(array, self.experiment, self.standardization, name)
        one_channel = len(self.shape) == 3 and self.shape[-1] == 1
        without_channels = one_channel and (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] != 1))
        return batch, array.ndim + without_channels == len(self.shape)

    def _image_shape(self, size: int | None) -> tuple[int, ...]:
        if size is None:
            return self.experiment.shape
        with _value_errors():
            experiment_lib.check_size(self.experiment, size, flag="size")
        return (size, size, self.experiment.shape[-1])

    def _shortened(self, num_steps: int | None, eta: float | None) -> Experiment:
        """Return the experiment with the chain that is asked for."""
        wanted = {name: value for name, value in (("num_steps", num_steps), ("eta", eta)) if value is not None}
        if not wanted:
            return self.experiment
        num_timesteps = self.model.num_timesteps
        for name in wanted:
            if self.experiment.is_cold:
                raise ValueError(f"{name}: a cold chain has no distribution of its steps; it is sampled as it is")
            with _value_errors():
                experiment_lib.check_denoiser(self.experiment, self.params, name)
        times = None
        if num_steps is not None:
            if not 1 <= num_steps <= num_timesteps:
                raise ValueError(f"num_steps: must lie in 1..{num_timesteps}, the steps of the chain, got {num_steps}")
            times = respacing.uniform(num_timesteps, num_steps)
        short = short_chains.shortened(self.experiment, times, eta)
        short.model(self.params)  # What does not fit is refused now.
        return short

    # --- Likelihood ---

    def bound(self, key: Array, x: Any, *, num_draws: int = 2) -> Measurement:
        """Estimate K, the lower bound on the log-likelihood (the ELBO), of each example.

        Densities are in the data's own units: log p(raw) = log p(x) - sum log scale. For pixels and integers, K bounds
        the log-probability of the integers, by the density of the dequantised ones; for bits, their log-probability.
        A draw visits as many times t as the config's `evaluate.num_times` says, which is unbiased; all where it is 0.

        Args:
          key: PRNG key of the noise.
          x: `[N, *shape]` in the data's own units, or one example `[*shape]`; images of one channel also without its
            axis.
          num_draws: of the noise, at least 1. Their spread gives the standard error, which is rough for few.

        Returns:
          `Measurement`: [N] nats; for one example, numbers.

        Raises:
          ValueError: if x has another shape, or holds NaN or values that no example has, such as pixels outside
            0..255; or if the model is a cold one, which has no likelihood.
        """
        experiment = self.experiment
        how: Any = {"edge": experiment.edge, "num_times": experiment.evaluate.num_times or None}

        def k(params: Params, key: Array, x_0: Array) -> Array:
            return bound_lib.evaluate(key, experiment.model(params), experiment.data(x_0), **how).k

        draws, single = self._draws(key, "bound", k, x, _BOUND_CHUNK, num_draws=num_draws)
        with np.errstate(invalid="ignore"):
            stderr = draws.std(axis=1, ddof=1) / np.sqrt(num_draws) if num_draws > 1 else np.full(len(draws), np.nan)
        return _without_batch(Measurement(draws.mean(axis=1) - self._log_volume, stderr), single)

    def bits_per_dim(self, key: Array, x: Any, *, num_draws: int = 2) -> Measurement:
        """Estimate an upper bound on the code length of each example in bits a dimension, by K: less is better.

        Args:
          key: PRNG key of the noise.
          x: as of `bound`; pixels, integers or bits.
          num_draws: as of `bound`.

        Returns:
          `Measurement`: [N] bits a dimension; for one example, numbers.

        Raises:
          ValueError: if the data are real numbers, which have no code length; or as of `bound`.
        """
        self._check_likelihood("bits_per_dim")
        self._check_discrete()
        return self.bits_per_dim_of(self.bound(key, x, num_draws=num_draws))

    def bits_per_dim_of(self, k: Measurement) -> Measurement:
        """Convert what `bound` returned to bits a dimension, see `bits_per_dim`.

        Raises:
          ValueError: if the data are real numbers.
        """
        self._check_discrete()
        shape = self.experiment.shape
        value = discrete_bits_per_dimension(k.value + self._log_volume, self.standardization.scale, shape)
        return Measurement(value, bits_per_dimension(k.stderr, shape))

    @property
    def is_discrete(self) -> bool:
        """Whether every coordinate is a pixel, an integer or a bit, so that examples have probabilities."""
        return self._is_binary or bool(self.standardization.step.all())

    def _check_discrete(self) -> None:
        if not self.is_discrete:
            raise ValueError("bits_per_dim: is for pixels, integers and bits, and the data are real numbers; use bound")

    def log_likelihood(self, key: Array, x: Any, *, k: int = 100) -> Measurement:
        """Estimate the log-likelihood of each example by annealed importance sampling over k trajectories.

        The estimate is a stochastic lower bound: its mean rises from K to the log-likelihood as k grows. The standard
        error is that of the k weights that were sampled; where few of them dominate, both are too low.

        Args:
          key: PRNG key of the trajectories, and of the dequantisation noise, of which each trajectory has its own.
          x: as of `bound`.
          k: trajectories of each example, at least 1; images need many.

        Returns:
          `Measurement`: [N] nats in the data's own units, see `bound`; for one example, numbers. For pixels and
          integers, the log-probability of the integers.

        Raises:
          ValueError: as of `bound`.
        """
        experiment = self.experiment

        def log_weight(params: Params, key: Array, x_0: Array) -> Array:
            # The forward kernel is part of the model.
            edge: bound_lib.Edge = experiment.edge if callable(experiment.edge) else "decoder"
            return likelihood.log_weights(key, experiment.model(params), experiment.data(x_0), 1, edge=edge)[:, 0]

        weights, single = self._draws(key, "log_likelihood", log_weight, x, _TRAJECTORY_CHUNK, k=k)
        value, stderr = (np.asarray(found, np.float64) for found in likelihood.log_mean(jnp.asarray(weights)))
        return _without_batch(Measurement(value - self._log_volume, stderr), single)

    def _check_likelihood(self, name: str) -> None:
        if self.experiment.is_cold:
            raise ValueError(f"{name}: a cold chain has no likelihood; it has sample")

    @property
    def _is_binary(self) -> bool:
        return self.experiment.binary

    def _program(self, name: Any, make: Callable[[], Any]) -> Any:
        if name not in self._programs:
            self._programs[name] = make()
        return self._programs[name]

    def _draws(
        self, key: Array, name: str, of_examples: _OfExamples, x: Any, most: int, **number: int
    ) -> tuple[np.ndarray, bool]:
        """Return a number of each example in independent draws of the noise, and whether x is one example.

        Args:
          key: PRNG key.
          name: of the public method.
          of_examples: returns the number of each example.
          x: in the data's own units.
          most: small examples at a time.
          **number: of draws, by the name of the parameter.

        Returns:
          [N, draws] float64; bool.
        """
        self._check_likelihood(name)
        refuse.at_least_one(**number)
        (num_draws,) = number.values()
        centres, single = self._centres(x)
        standardization, at_once = self.standardization, chunk_size(self.experiment.shape, most)

        def of_centres(params: Params, key: Array, centres: Array) -> Array:
            spread_key, noise_key = jax.random.split(key)
            return mesh.gather(of_examples(params, noise_key, standardization.spread(spread_key, centres)))

        compiled = self._program(name, lambda: jax.jit(of_centres))
        total = len(centres) * num_draws
        # As few chunks, of as even a size, as can be: they are one program.
        size = -(-total // -(-total // at_once))
        parts = []
        with bar("evaluating", len(centres), "example") as shown:
            for i, first in enumerate(range(0, total, size)):
                rows = np.minimum(first + np.arange(size), total - 1) // num_draws
                part = compiled(self.params, jax.random.fold_in(key, i), jnp.asarray(centres[rows]))
                parts.append(np.asarray(part, np.float64))
                shown.update(min(first + size, total) // num_draws - shown.n)
        return np.concatenate(parts)[:total].reshape(len(centres), num_draws), single


def _without_batch(found: Measurement, single: bool) -> Measurement:
    return Measurement(found.value[0], found.stderr[0]) if single else found


@contextmanager
def _value_errors() -> Iterator[None]:
    """Raise what the commands refuse as a `ValueError`, without the dashes of their flags."""
    try:
        yield
    except UserError as error:
        raise ValueError(str(error).removeprefix("--")) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Orbax logs of every checkpoint; what goes wrong comes as an exception."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def load(workdir: str | Path, checkpoint: Which = "newest") -> Run:
    """Load a trained model.

    Args:
      workdir: what `fit`, `Run.save` or train.py wrote, also in a bucket; or a model that comes with the package,
        "example:swiss_roll", "example:heartbeat" or "example:mnist".
      checkpoint: "newest", "best" by the examples set aside for validation, or the step of one.

    Raises:
      UserError: if the workdir is missing or damaged, or has no such checkpoint.
    """
    where = storage.folder(str(workdir))
    described = workdir_lib.read(where)
    built = build.experiment(described.config, described.shape, described.standardization)
    with quiet():
        step, params = loop.load_params(built, where, which=checkpoint)
    return Run(built, params, described.standardization, step)
