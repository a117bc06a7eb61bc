"""Draw samples from a trained model, or from its posterior given observations.

  python sample.py --workdir=runs/swiss_roll --num_samples=10000 --out=samples
  python sample.py --workdir=runs/bark --num_samples=4 --size=128
  python sample.py --workdir=runs/mnist --denoise=held_out --add_noise --noise_sigma=79 --data_dir=FOLDER
  python sample.py --workdir=runs/mnist --inpaint=IMAGES.npz --mask=left --num_samples=6
  python sample.py --workdir=runs/heartbeat --inpaint=held_out --mask=random:0.8 --num_particles=1000
  python sample.py --workdir=runs/mnist --num_steps=10 --eta=0

Writes samples.npz and samples.png into --out, in the units of the data, with --gif trajectory.gif, and with --png each
image as a file. The array
`samples` in samples.npz has shape [N, ...]; for a posterior [n, N, ...], N samples for each of n observations, beside
the arrays `mean`, `observed`, `mask`, and `truth` where it is known.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from absl.flags import FlagValues
from jax import Array

from dpm_jax import cold, guidance, sampling
from dpm_jax.cli import arguments as cli
from dpm_jax.errors import UserError, writing
from dpm_jax.evaluation import examples, figures, masks, observations, plots, posterior_samples, scores, short_chains
from dpm_jax.evaluation.samples import draw, seconds
from dpm_jax.training import build, experiment, loop, mesh, programs, storage, workdir
from dpm_jax.training.hosts import together
from dpm_jax.units import bits

_FILES = "a .npz (arrays samples, mask, truth), .npy, .csv, image, folder, or held_out for held-out data of the workdir"

# Seconds from which on the time that the samples take is printed.
_LONG = 5

# Flags that change how a posterior is sampled.
_CONDITIONAL = ("how", "num_particles", "num_repeats", "num_observations")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, those of the process if None, and return its exit code."""
    return cli.run(__doc__, _define, _sample, argv)


def _define(flag: cli.Definitions) -> None:
    flag.string("workdir", "runs/swiss_roll", "Workdir of the trained model, or example:NAME (runs/swiss_roll).")
    flag.checkpoint()
    flag.string("out", None, "Folder to write into (WORKDIR/samples, or WORKDIR/posterior for a posterior).")
    flag.integer("num_samples", None, "Number of samples (64 images, 1000 vectors, or 4 for each observation).")
    flag.integer("chunk_size", None, "Number of samples drawn at a time, with the same result (what fits in memory).")
    flag.integer("size", None, "Side of the images (that of the training data).")
    flag.integer("seed", 0, "Seed of the samples.", 0, 2**32 - 1)
    flag.dry_run("a reverse step of --num_samples samples")
    flag.boolean("png", False, "Whether to write each image as a file, 0000.png and so on, too.")
    flag.boolean("gif", False, "Whether to write the path from noise to samples as an animation, too.")

    flag.integer("num_steps", None, "Number of steps of a shorter chain (all steps of the model).")
    flag.enum(
        "spacing",
        "uniform",
        get_args(short_chains.Spacing),
        "How --num_steps steps are placed; optimal uses the table that evaluate.py --respacing wrote.",
    )
    flag.float("eta", None, "Noise of DDIM steps, from 0 for none to 1 for that of ancestral steps (no DDIM).")
    flag.enum("rule", None, get_args(cold.Rule), "Sampling rule of a cold chain (cold.rule of the config).")

    flag.string("denoise", None, f"Noisy examples to denoise: {_FILES} (none).")
    flag.float(
        "noise_sigma", None, "Noise level of --denoise in the units of the data; for bits, the flip probability (none)."
    )
    flag.boolean("add_noise", False, "Whether the examples of --denoise are clean, and the noise is added here.")
    flag.string("inpaint", None, f"Partly observed examples: {_FILES} (none).")
    flag.string(
        "mask", None, f"Mask of --inpaint: a file, True where observed, or a part to hide: {masks.PRESETS} (none)."
    )
    flag.enum(
        "how",
        "default",
        ["default", *get_args(guidance.How)],
        "How observations act along the chain; see dpm_jax/guidance.py.",
    )
    flag.integer(
        "num_particles", 0, "Number of particles of sequential Monte Carlo, 0 for the approximate chain alone.", 0
    )
    flag.integer("num_repeats", 1, "Number of times that each stretch of the chain is resampled (RePaint).", 1)
    flag.integer("jump_length", 5, "Number of steps in such a stretch.", 1)
    flag.string("data_dir", None, "Folder with data files, for held_out (none).")
    flag.integer(
        "num_observations", 8, "Number of held-out observations; if given, also the most taken from a file.", 1
    )


def _sample(given: FlagValues) -> None:
    with together():
        pod = cli.pod(given)
        _check_flags(given)
        which = cli.checkpoint(given)
        where = storage.results_folder(given.workdir)
        description = workdir.read(where)
        built = _build(given, description)
        shape = _shape(given, built)
        if given.dry_run:
            cli.print_cost(partial(programs.reverse_step, built, _num(given, shape), shape), pod)
            return
        if given.png and len(shape) != 3:
            raise UserError("--png: is for images")
        if given.gif and not built.binary and len(shape) == 1 and shape[0] < 2:
            raise UserError("--gif: needs images, bits, or points of at least 2 dimensions")
        conditional = given.denoise is not None or given.inpaint is not None
        out = storage.folder(given.out) if given.out else where / ("posterior" if conditional else "samples")
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
    try:
        with mesh.over_all_devices(), cli.outputs(out) as ours:
            step, params = loop.load_params(built, where, which=which)
            built = _short(given, description, built, params, where, step)
            if conditional:
                written = _sample_posterior(given, description, built, params, where, ours)
            else:
                written = _sample_model(given, description, built, params, ours)
        print("wrote " + ", ".join(str(out / name) for name in written))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror or error}") from error


def _shape(given: FlagValues, built: experiment.Experiment) -> tuple[int, ...]:
    """Return the shape of one sample."""
    if given.size is None:
        return built.shape
    experiment.check_size(built, given.size)
    return (given.size, given.size, built.shape[-1])


def _num(given: FlagValues, shape: tuple[int, ...]) -> int:
    """Return the number of samples of the model itself."""
    if given.num_samples is None:
        return 64 if len(shape) == 3 else 1000
    num: int = given.num_samples
    return num


def _check_flags(given: FlagValues) -> None:
    for name in ("num_samples", "chunk_size", "size"):
        value: int | None = given[name].value
        if value is not None and value < 1:
            raise UserError(f"--{name}: must be at least 1, got {value}")
    if given.denoise is not None and given.inpaint is not None:
        raise UserError("--denoise, --inpaint: give one of them")
    conditional = given.denoise is not None or given.inpaint is not None
    if given.eta is not None:
        if not 0 <= given.eta <= 1:
            raise UserError(f"--eta: must lie in [0, 1], got {given.eta:g}")
        if given.num_particles:
            raise UserError("--num_particles: steps of DDIM have no weights; leave out --eta")
        if conditional and given.how != "renoised":
            raise UserError(f"--eta: steps of DDIM are conditioned by --how=renoised alone, got {given.how}")
    needed: list[tuple[str, bool, str]] = [
        ("noise_sigma", given.denoise is not None, "--denoise"),
        ("add_noise", given.denoise is not None, "--denoise"),
        ("mask", given.inpaint is not None, "--inpaint"),
        *((name, conditional, "--denoise or --inpaint") for name in _CONDITIONAL),
        ("jump_length", given.num_repeats > 1, "--num_repeats"),
        ("data_dir", "held_out" in (given.denoise, given.inpaint), "held_out for --denoise or --inpaint"),
        ("spacing", given.num_steps is not None, "--num_steps"),
    ]
    for name, fits, needs in needed:
        if given[name].present and not fits:
            raise UserError(f"--{name}: needs {needs}")
    for name in ("size", "gif", "png", "chunk_size", "dry_run"):
        if conditional and given[name].present:
            raise UserError(f"--{name}: cannot be used with --denoise or --inpaint")
    if given.denoise is not None and given.noise_sigma is None:
        raise UserError(
            "--noise_sigma: missing; --denoise needs it, in the units of the data or as the flip probability of bits"
        )
    if given.denoise == "held_out" and not given.add_noise:
        raise UserError("--denoise: held_out data have no noise; add it with --add_noise")
    if given.num_particles and given.how == "constant" and given.inpaint is not None:
        raise UserError("--how: 'constant' has no weights for --inpaint; choose another with --num_particles")
    if given.num_particles and given.num_repeats > 1:
        raise UserError(f"--num_repeats: must be 1 with --num_particles, got {given.num_repeats}")


def _build(given: FlagValues, description: workdir.Description) -> experiment.Experiment:
    """Build the trained experiment, with the sampling rule that --rule names."""
    config = description.config.copy_and_resolve_references()
    if given.rule is not None:
        if config.kernel != "cold":
            raise UserError(f"--rule: is for kernel 'cold', and this is '{config.kernel}'")
        config.cold.rule = given.rule
    if given.denoise is not None and given.how == "denoised" and config.reverse.variance == "small":
        raise UserError("--how: 'denoised' does not go with reverse.variance 'small', whose law of x_0 has no variance")
    return build.experiment(config, description.shape, description.standardization)


def _short(
    given: FlagValues,
    description: workdir.Description,
    built: experiment.Experiment,
    params: experiment.Params,
    where: Path,
    step: int,
) -> experiment.Experiment:
    """Return the experiment with the shorter chain that the flags ask for."""
    if given.eta is not None and description.config.kernel != "gaussian":
        raise UserError(f"--eta: DDIM is for kernel 'gaussian', and this is '{description.config.kernel}'")
    if built.cold is not None:
        for name in ("num_steps", "denoise", "inpaint"):
            if given[name].value is not None:
                raise UserError(f"--{name}: a cold chain has no distribution of its steps; sample it as it is")
        return built
    for name in ("num_steps", "eta"):
        if given[name].value is not None:
            experiment.check_denoiser(built, params, f"--{name}")
    times = None
    if given.num_steps is not None:
        spacing: Any = given.spacing
        num_timesteps = built.num_timesteps
        folder = where / f"step_{step}" if (where / f"step_{step}").exists() else where
        times = short_chains.times(spacing, given.num_steps, num_timesteps, folder / "respacing.npz", step)
    return short_chains.shortened(built, times, given.eta)


def _observations(
    given: FlagValues, key: Array, description: workdir.Description, built: experiment.Experiment, where: Path
) -> observations.Observations:
    """Read the observations that the flags name."""
    path, flag = (given.denoise, "--denoise") if given.inpaint is None else (given.inpaint, "--inpaint")
    assert path is not None
    if path == "held_out":
        source = build.source(description.config, workdir.data_dir(where, given.data_dir))
        workdir.check_source(description, source, where)
        held_out = source.held_out(key, given.num_observations)
        samples = description.standardization.invert(held_out)
        found = examples.Examples(samples, None, None, f"{flag}: held_out")
    else:
        found = examples.read(path, flag)
    if given.noise_sigma is None:
        seen = observations.inpainting(found, built, description.standardization, given.mask, given.seed)
    else:
        seen = observations.denoising(
            found, built, description.standardization, given.noise_sigma, given.add_noise, given.seed
        )
    few = slice(None) if not given["num_observations"].present else slice(given.num_observations)
    return seen._replace(y=seen.y[few], mask=seen.mask[few], truth=None if seen.truth is None else seen.truth[few])


def _sample_posterior(
    given: FlagValues,
    description: workdir.Description,
    built: experiment.Experiment,
    params: experiment.Params,
    where: Path,
    out: Path,
) -> list[str]:
    """Sample given observations, and return the names of the files written."""
    data_key, draw_key, hidden_key = jax.random.split(jax.random.key(given.seed), 3)
    seen = _observations(given, data_key, description, built, where)
    how: Any = given.how
    plan = posterior_samples.Plan(how, given.num_particles, given.num_repeats, given.jump_length)
    num = 4 if given.num_samples is None else given.num_samples
    draws = posterior_samples.draw(draw_key, built, params, description.standardization, seen, num, plan)
    binary = built.binary
    scored = scores.score(seen, draws.samples, binary, description.standardization.levels)
    if scored is not None:
        print(scores.table(scored))
    for line in posterior_samples.particle_report(draws, given.num_particles):
        print(line)
    if draws.log_evidence is not None:
        hidden = posterior_samples.log_hidden(
            hidden_key, built, params, description.standardization, seen, draws, given.num_particles
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
    given: FlagValues,
    description: workdir.Description,
    built: experiment.Experiment,
    params: experiment.Params,
    out: Path,
) -> list[str]:
    """Sample the model itself, and return the names of the files written."""
    key, num_timesteps = jax.random.key(given.seed), built.model(params).num_timesteps
    shape, binary = _shape(given, built), built.binary
    num = _num(given, shape)
    wait = seconds(built, params, num, shape, given.chunk_size)
    if wait >= _LONG:
        print(f"about {wait:.0f} s for {num} samples, and compilation", flush=True)
    samples = draw(key, built, params, description.standardization, num, shape, given.chunk_size)
    np.savez(out / "samples.npz", samples=samples)
    plots.save(figures.of_samples(samples, binary), out / "samples.png")
    print(f"{len(samples)} samples")
    written = ["samples.npz", "samples.png"]
    if given.png:
        names = plots.save_images(samples, out)
        written.append(names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}")
    if given.gif:
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
