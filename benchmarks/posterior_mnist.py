"""Denoising and inpainting of held-out images against the posterior mean of a Gaussian model (Wiener filter). PSNR.

  python -m benchmarks.posterior_mnist --workdir=runs/mnist --data_dir=FOLDER --task=denoise
  python -m benchmarks.posterior_mnist --workdir=runs/mnist --data_dir=FOLDER --task=inpaint --num_images=64

The noise has the variance of the data (SNR 1); the left half is hidden. The Gaussian model has the mean and the
covariance of 20 000 training images. PSNR in decibels, peak 255, over what was hidden, the mean of images.
A posterior mean has by its nature a higher one than draws: so the mean of the draws is what is compared.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import jax
import numpy as np

from dpm_jax import guidance
from dpm_jax.evaluation import observations, posterior_samples, scores
from dpm_jax.evaluation.examples import Examples
from dpm_jax.evaluation.observations import Observations
from dpm_jax.training import build, loop, workdir


def _wiener(train: np.ndarray, seen: Observations) -> np.ndarray:
    """Posterior mean of each image under a normal law with the moments of `train` [m, ...], pixels."""
    flat = train.reshape(len(train), -1).astype(np.float64)
    mean, covariance = flat.mean(0), np.cov(flat.T)
    # The least noise keeps pixels that never vary out of the way.
    noise = max(seen.noise, 0.1) ** 2
    results = []
    same = (seen.mask == seen.mask[:1]).all()
    for i, y in enumerate(seen.y.reshape(len(seen.y), -1)):
        if i == 0 or not same:
            index = np.flatnonzero(seen.mask[i])
            total = covariance[np.ix_(index, index)] + noise * np.eye(len(index))
            gain = np.linalg.solve(total, covariance[index]).T
        estimate = mean + gain @ (y[index] - mean[index])
        results.append(np.clip(estimate, 0, 255).reshape(seen.y.shape[1:]))
    return np.stack(results)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/mnist"))
    parser.add_argument("--data_dir", default=None)
    parser.add_argument("--task", choices=("denoise", "inpaint"), default="denoise")
    parser.add_argument("--num_images", type=int, default=256)
    parser.add_argument("--num_draws", type=int, default=8)
    parser.add_argument("--how", nargs="*", default=["default"])
    parser.add_argument("--num_repeats", type=int, default=1)
    options = parser.parse_args()
    description = workdir.read(options.workdir)
    built = build.experiment(description.config, description.shape, description.standardization)
    _, params = loop.load_params(built, options.workdir)
    source = build.source(description.config, options.data_dir)
    standardization = description.standardization
    held_out = np.asarray(standardization.invert(source.held_out(jax.random.key(0), options.num_images)))
    examples = Examples(held_out, None, None, "held_out")
    if options.task == "denoise":
        sigma = float(np.asarray(standardization.scale))
        seen = observations.denoising(examples, built, standardization, sigma, add_noise=True)
    else:
        seen = observations.inpainting(examples, built, standardization, "left")
    assert seen.truth is not None
    assert source.train_examples is not None
    where = np.ones_like(seen.mask) if options.task == "denoise" else ~seen.mask

    def row(name: str, x: np.ndarray) -> None:
        values = scores.psnr(x, seen.truth if seen.truth is not None else x, where)
        print(f"{name:44} {values.mean():7.2f} +- {values.std(ddof=1) / len(values) ** 0.5:.2f} dB", flush=True)

    print(f"{options.task}, {options.num_images} held-out images")
    if options.task == "denoise":
        row("as observed", np.clip(seen.y, 0, 255))
    row("Gaussian model, posterior mean", _wiener(source.train_examples(20_000), seen))
    for how in options.how:
        chosen: guidance.How = how
        plan = posterior_samples.Plan(chosen, num_repeats=options.num_repeats)
        begin = time.perf_counter()
        drawn = posterior_samples.draw(
            jax.random.key(1), built, params, standardization, seen, options.num_draws, plan
        ).samples.astype(np.float64)
        seconds = time.perf_counter() - begin
        row(f"{how}: mean of {options.num_draws} draws", drawn.mean(1))
        row(f"{how}: a draw ({seconds:.0f} s for all)", drawn[:, 0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
