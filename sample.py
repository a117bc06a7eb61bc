"""Draw samples from a trained model, or from its posterior given what was observed.

  python sample.py --workdir=runs/swiss_roll --num_samples=10000 --out=samples
  python sample.py --workdir=runs/bark --num_samples=4 --size=128
  python sample.py --workdir=runs/mnist --denoise=held_out --add_noise --noise_sigma=79 --data_dir=FOLDER
  python sample.py --workdir=runs/mnist --inpaint=IMAGES.npz --mask=left --num_samples=6
  python sample.py --workdir=runs/heartbeat --inpaint=held_out --mask=random:0.8 --num_particles=1000
  python sample.py --workdir=runs/mnist --num_steps=10 --eta=0

Writes samples.npz and samples.png into --out, in the data's own units; with --gif, trajectory.gif
too; with --png, each image as a file. samples.npz has the key `samples`, [N, ...]; of posteriors
[n, N, ...], N draws for each of n observations, and `mean`, `observed`, `mask`, and `truth` where it
is known.
"""

from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from absl import flags
from jax import Array

from dpm_jax import cold, guidance, sampling
from dpm_jax.cli import arguments as cli
from dpm_jax.errors import UserError
from dpm_jax.evaluation import examples, figures, masks, observations, plots, posterior_samples, scores, short_chains
from dpm_jax.evaluation.samples import draw, seconds
from dpm_jax.training import experiment, loop, mesh, storage, workdir
from dpm_jax.training.hosts import together
from dpm_jax.units import bits

_WORKDIR = flags.DEFINE_string("workdir", "runs/swiss_roll", "What train.py wrote.")
_CHECKPOINT = cli.checkpoint_flag()
_OUT = flags.DEFINE_string("out", None, "Folder to write to; WORKDIR/samples if not given, WORKDIR/posterior of those.")
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "How many (default: 64 images, 1000 vectors, 4 for each observation)."
)
_CHUNK_SIZE = flags.DEFINE_integer(
    "chunk_size", None, "How many to draw at a time, with the same result; what fits in memory if not given."
)
_SIZE = flags.DEFINE_integer("size", None, "Side of the images; that of the training data if not given.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the samples.", lower_bound=0, upper_bound=2**32 - 1)
_PNG = flags.DEFINE_boolean("png", False, "Write each image as a file, 0000.png and so on, too (default: false).")
_GIF = flags.DEFINE_boolean("gif", False, "Write the way from noise to samples as an animation, too.")

_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Of the chain: fewer than the model has; all if not given.")
_SPACING = flags.DEFINE_enum(
    "spacing",
    "uniform",
    get_args(short_chains.Spacing),
    "Of these steps; optimal: by the table that evaluate.py --respacing wrote.",
)
_ETA = flags.DEFINE_float("eta", None, "Steps of DDIM with so much noise, 0: none, 1: that of the posteriors.")

_RULE = flags.DEFINE_enum("rule", None, get_args(cold.Rule), "Of a cold chain; the config's if not given.")

# Seconds from which on it is said how long the samples take.
_LONG = 5

_FILES = "a .npz (keys samples, mask, truth), .npy, image or folder; or held_out, the workdir's own held-out data"
_DENOISE = flags.DEFINE_string("denoise", None, f"Noisy examples: {_FILES}.")
_NOISE = flags.DEFINE_float("noise_sigma", None, "Of --denoise, in the data's own units; of bits, the rate of flips.")
_ADD_NOISE = flags.DEFINE_boolean("add_noise", False, "The examples of --denoise are clean: add the noise.")
_INPAINT = flags.DEFINE_string("inpaint", None, f"Examples seen in part: {_FILES}.")
_MASK = flags.DEFINE_string("mask", None, f"Of --inpaint: a file, True where observed, or hide {masks.PRESETS}.")
_HOW = flags.DEFINE_enum(
    "how",
    "default",
    ["default", *get_args(guidance.How)],
    "How what was observed acts along the chain, see dpm_jax/guidance.py.",
)
_NUM_PARTICLES = flags.DEFINE_integer(
    "num_particles", 0, "Of sequential Monte Carlo, exact as they become many; 0: the approximate chain.", 0
)
_NUM_REPEATS = flags.DEFINE_integer("num_repeats", 1, "Times that each stretch of the chain is gone (RePaint).", 1)
_JUMP_LENGTH = flags.DEFINE_integer("jump_length", 5, "Steps in such a stretch.", 1)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder with data files, for held_out.")
_NUM_OBSERVATIONS = flags.DEFINE_integer(
    "num_observations", 8, "Of held_out; where given, at most so many of a file.", 1
)


def _shape(built: experiment.Experiment) -> tuple[int, ...]:
    """Of one sample."""
    if _SIZE.value is None:
        return built.shape
    experiment.check_size(built, _SIZE.value)
    return (_SIZE.value, _SIZE.value, built.shape[-1])


def _check_flags() -> None:
    for flag in (_NUM_SAMPLES, _CHUNK_SIZE, _SIZE):
        if flag.value is not None and flag.value < 1:
            raise UserError(f"--{flag.name}: must be at least 1, got {flag.value}")
    if _DENOISE.value is not None and _INPAINT.value is not None:
        raise UserError("--denoise, --inpaint: give one of them")
    conditional = _DENOISE.value is not None or _INPAINT.value is not None
    if _ETA.value is not None:
        if not 0 <= _ETA.value <= 1:
            raise UserError(f"--eta: must lie in [0, 1], got {_ETA.value:g}")
        if _NUM_PARTICLES.value:
            raise UserError("--num_particles: weights need steps that evidence can bear on; they go with no --eta")
        if conditional and _HOW.value != "renoised":
            raise UserError(f"--eta: steps that are sure of x_0 only hear --how=renoised, got {_HOW.value}")
    needed: list[tuple[Any, bool, str]] = [
        (_NOISE, _DENOISE.value is not None, "--denoise"),
        (_ADD_NOISE, _DENOISE.value is not None, "--denoise"),
        (_MASK, _INPAINT.value is not None, "--inpaint"),
        (_HOW, conditional, "--denoise or --inpaint"),
        (_NUM_PARTICLES, conditional, "--denoise or --inpaint"),
        (_NUM_REPEATS, conditional, "--denoise or --inpaint"),
        (_JUMP_LENGTH, _NUM_REPEATS.value > 1, "--num_repeats"),
        (_NUM_OBSERVATIONS, conditional, "--denoise or --inpaint"),
        (_DATA_DIR, "held_out" in (_DENOISE.value, _INPAINT.value), "held_out for --denoise or --inpaint"),
        (_SIZE, not conditional, "no --denoise or --inpaint: images come in a size of their own"),
        (_GIF, not conditional, "no --denoise or --inpaint"),
        (_PNG, not conditional, "no --denoise or --inpaint"),
        (_SPACING, _NUM_STEPS.value is not None, "--num_steps"),
        (_CHUNK_SIZE, not conditional, "no --denoise or --inpaint"),
    ]
    for given, on, needs in needed:
        if given.present and not on:
            raise UserError(f"--{given.name}: needs {needs}")
    if _DENOISE.value is not None and _NOISE.value is None:
        raise UserError("--noise_sigma: --denoise needs it, in the data's own units; of bits, the rate of flips")
    if _DENOISE.value == "held_out" and not _ADD_NOISE.value:
        raise UserError("--denoise: held_out data carry no such noise; add it with --add_noise")
    if _NUM_PARTICLES.value and _HOW.value == "constant" and _INPAINT.value is not None:
        raise UserError("--how: 'constant' has no weights where values are known; use another with particles")
    if _NUM_PARTICLES.value and _NUM_REPEATS.value > 1:
        raise UserError("--num_repeats: particles go down the chain once; leave it 1")


def _build(description: workdir.Description) -> experiment.Experiment:
    """What was trained; of a cold chain, with the rule that the flag asks for."""
    config = description.config.copy_and_resolve_references()
    if _RULE.value is not None:
        if config.kernel != "cold":
            raise UserError(f"--rule: is for kernel 'cold', and this is '{config.kernel}'")
        config.cold.rule = _RULE.value
    if _DENOISE.value is not None and _HOW.value == "denoised" and config.reverse.variance == "small":
        raise UserError("--how: 'denoised' needs steps that are in doubt of x_0; not reverse.variance 'small'")
    return experiment.build(config, description.shape)


def _short(
    description: workdir.Description, built: experiment.Experiment, params: experiment.Params, where: Path, step: int
) -> experiment.Experiment:
    """The experiment with the chain that the flags ask for."""
    if _ETA.value is not None and description.config.kernel != "gaussian":
        raise UserError(f"--eta: DDIM is for kernel 'gaussian', and this is '{description.config.kernel}'")
    if built.cold is not None:
        for flag in (_NUM_STEPS, _DENOISE, _INPAINT):
            if flag.value is not None:
                raise UserError(
                    f"--{flag.name}: a cold chain has no distribution of its steps; it is drawn from as it is"
                )
        return built
    for name, value in ((_NUM_STEPS.name, _NUM_STEPS.value), (_ETA.name, _ETA.value)):
        if value is not None:
            experiment.check_denoiser(built, params, f"--{name}")
    times = None
    if _NUM_STEPS.value is not None:
        spacing: Any = _SPACING.value
        num_timesteps = description.config.num_timesteps
        folder = where / f"step_{step}" if (where / f"step_{step}").exists() else where
        times = short_chains.times(spacing, _NUM_STEPS.value, num_timesteps, folder / "respacing.npz", step)
    return short_chains.shortened(built, times, _ETA.value)


def _observations(
    key: Array, description: workdir.Description, built: experiment.Experiment, where: Path
) -> observations.Observations:
    """What is conditioned on, as the flags say."""
    path, flag = (_DENOISE.value, "--denoise") if _INPAINT.value is None else (_INPAINT.value, "--inpaint")
    assert path is not None
    if path == "held_out":
        source = experiment.open_source(description.config, workdir.data_dir(where, _DATA_DIR.value))
        workdir.check_source(description, source, where)
        held_out = source.held_out(key, _NUM_OBSERVATIONS.value)
        samples = description.standardization.invert(held_out)
        found = examples.Examples(samples, None, None, f"{flag}: held_out")
    else:
        found = examples.read(path, flag)
    if _NOISE.value is None:
        seen = observations.inpainting(found, built, description.standardization, _MASK.value, _SEED.value)
    else:
        seen = observations.denoising(
            found, built, description.standardization, _NOISE.value, _ADD_NOISE.value, _SEED.value
        )
    few = slice(None) if not _NUM_OBSERVATIONS.present else slice(_NUM_OBSERVATIONS.value)
    return seen._replace(y=seen.y[few], mask=seen.mask[few], truth=None if seen.truth is None else seen.truth[few])


def _sample_posterior(
    description: workdir.Description, built: experiment.Experiment, params: experiment.Params, where: Path, out: Path
) -> list[str]:
    """Draws given observations, beside them and the truth; names of the files written."""
    data_key, draw_key, hidden_key = jax.random.split(jax.random.key(_SEED.value), 3)
    seen = _observations(data_key, description, built, where)
    how: Any = _HOW.value
    plan = posterior_samples.Plan(how, _NUM_PARTICLES.value, _NUM_REPEATS.value, _JUMP_LENGTH.value)
    num = 4 if _NUM_SAMPLES.value is None else _NUM_SAMPLES.value
    draws = posterior_samples.draw(draw_key, built, params, description.standardization, seen, num, plan)
    binary = description.config.kernel == "binomial"
    scored = scores.score(seen, draws.samples, binary, description.standardization.levels)
    if scored is not None:
        print(scores.table(scored))
    for line in posterior_samples.particle_report(draws, _NUM_PARTICLES.value):
        print(line)
    if draws.log_evidence is not None:
        hidden = posterior_samples.log_hidden(
            hidden_key, built, params, description.standardization, seen, draws, _NUM_PARTICLES.value
        )
        if hidden is not None:
            mean, error = bits(hidden.log_prob).mean(), bits(np.sqrt(np.mean(hidden.stderr**2) / len(hidden.stderr)))
            print(
                f"log2 p(hidden | observed), mean: {mean:.3f} +- {error:.3f} bits, of as many trajectories as particles"
            )
    arrays: dict[str, Any] = posterior_samples.arrays(seen, draws)
    np.savez(out / "samples.npz", **arrays)
    plots.save(
        plots.observations(seen.y, seen.mask, draws.samples, seen.truth, seen.noise, binary), out / "samples.png"
    )
    print(f"{num} samples of each of {len(seen.y)} posteriors")
    return ["samples.npz", "samples.png"]


def _sample_model(
    description: workdir.Description, built: experiment.Experiment, params: experiment.Params, out: Path
) -> list[str]:
    """Samples of the model itself; names of the files written."""
    key, num_timesteps = jax.random.key(_SEED.value), built.model(params).num_timesteps
    shape, binary = _shape(built), description.config.kernel == "binomial"
    num = (64 if len(shape) == 3 else 1000) if _NUM_SAMPLES.value is None else _NUM_SAMPLES.value
    wait = seconds(built, params, num, shape, _CHUNK_SIZE.value)
    if wait >= _LONG:
        print(f"about {wait:.0f} s for {num} samples, and compilation", flush=True)
    samples = draw(key, built, params, description.standardization, num, shape, _CHUNK_SIZE.value)
    np.savez(out / "samples.npz", samples=samples)
    plots.save(figures.of_samples(samples, binary), out / "samples.png")
    print(f"{len(samples)} samples")
    written = ["samples.npz", "samples.png"]
    if _PNG.value:
        names = plots.save_images(samples, out)
        written.append(names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}")
    if _GIF.value:
        kept = jax.jit(
            lambda key, params: mesh.gather(
                sampling.trajectory(
                    key,
                    built.model(params),
                    min(num, 1000 if len(shape) == 1 else 16),
                    shape,
                    keep_every=max(num_timesteps // 50, 1),
                    start=None if built.cold is None else built.cold.start(params, shape),
                )
            )
        )(key, params)
        states = description.standardization.invert(kept.x)
        plots.animate(np.asarray(kept.t), states, out / "trajectory.gif", binary)
        written.append("trajectory.gif")
    return written


def main() -> None:
    with together():
        _check_flags()
        which = _CHECKPOINT()
        where = storage.folder(_WORKDIR.value)
        description = workdir.read(where)
        built = _build(description)
        shape = _shape(built)
        if _PNG.value and len(shape) != 3:
            raise UserError("--png: is for images")
        if _GIF.value and description.config.kernel != "binomial" and len(shape) == 1 and shape[0] < 2:
            raise UserError("--gif: needs images, bits, or points of at least 2 dimensions")
        conditional = _DENOISE.value is not None or _INPAINT.value is not None
        out = storage.folder(_OUT.value) if _OUT.value else where / ("posterior" if conditional else "samples")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error
    try:
        with mesh.over_all_devices(), cli.outputs(out) as ours:
            step, params = loop.load_params(built, where, which=which)
            built = _short(description, built, params, where, step)
            if conditional:
                written = _sample_posterior(description, built, params, where, ours)
            else:
                written = _sample_model(description, built, params, ours)
        print("wrote " + ", ".join(str(out / name) for name in written))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    cli.run(main)
