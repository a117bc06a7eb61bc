"""Train diffusers' U-Net by improved-diffusion's hybrid loss for some minutes, and answer questions on the way.

Runs in PyTorch's environment. L = |epsilon - network|^2 + 0.001 L_vlb (Nichol & Dhariwal 2021, section 3.1), in which
L_vlb teaches the variance alone; Adam with warm-up and a cosine, by minutes; average of the parameters; eager.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel

from benchmarks.peers.with_diffusers import UNet

BATCH, LEARNING_RATE, CLIP_NORM, EMA_DECAY = 16, 1e-3, 1.0, 0.999
# When questions are answered, as fractions of the time.
MARKS = (1 / 15, 2 / 15, 4 / 15, 8 / 15, 1.0)
_WARM_UP = 0.05


class Loss:
    """The hybrid loss of a batch of pixels from -1 to 1, [B, C, H, W]."""

    def __init__(self, alpha_bar: np.ndarray, beta: np.ndarray, variance: np.ndarray) -> None:
        self._alpha_bar, self._beta, self._variance = (
            torch.tensor(values, dtype=torch.float32) for values in (alpha_bar, beta, variance)
        )
        self._num = len(alpha_bar) - 1

    def __call__(self, net: Any, x_0: Any) -> Any:
        t = torch.randint(1, self._num + 1, (len(x_0),))
        alpha_bar, before, beta, variance = (
            values[:, None, None, None]
            for values in (self._alpha_bar[t], self._alpha_bar[t - 1], self._beta[t], self._variance[t])
        )
        noise = torch.randn_like(x_0)
        x_t = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise
        epsilon, c = net(x_t, t).chunk(2, 1)
        share = (c + 1) / 2
        log_p = share * beta.log() + (1 - share) * variance.log()
        guess = (x_t - (1 - alpha_bar).sqrt() * epsilon.detach()) / alpha_bar.sqrt()
        difference = before.sqrt() * beta / (1 - alpha_bar) * (x_0 - guess.clamp(-1, 1))
        log_ratio = variance.log() - log_p
        kl = 0.5 * (log_ratio.exp() - 1 - log_ratio + difference**2 * (-log_p).exp())
        first = -_log_bin(x_0, x_0 - difference, (0.5 * log_p).exp())
        vlb = torch.where(t[:, None, None, None] == 1, first, kl).mean() / math.log(2)
        return ((epsilon - noise) ** 2).mean() + 0.001 * self._num * vlb


def _log_bin(x: Any, mean: Any, sigma: Any) -> Any:
    """Log of the mass of a grey level's bin."""
    above, below = ((x - mean + side) / sigma for side in (1 / 255, -1 / 255))
    high = torch.where(x > 0.999, 1.0, torch.special.ndtr(above))
    low = torch.where(x < -0.999, 0.0, torch.special.ndtr(below))
    return (high - low).clamp_min(1e-12).log()


def _answers(net: Any, x_t: Any, t: Any) -> np.ndarray:
    with torch.inference_mode():
        parts = [net(x, of) for x, of in zip(x_t.split(128), t.split(128), strict=True)]
    return np.asarray(torch.cat(parts).permute(0, 2, 3, 1))


def _rate(done: float) -> float:
    """Return the learning rate when this fraction of the time is over."""
    return LEARNING_RATE * min(done / _WARM_UP, 0.5 * (1 + math.cos(math.pi * min(done, 1.0))) + 0.01)


def main(folder: Path, minutes: float) -> None:
    """Train, and write answers_i.npz at the i-th mark: answers, minutes and steps."""
    began = time.monotonic()
    torch.manual_seed(0)
    given = np.load(folder / "questions.npz")
    x_t, t = torch.tensor(given["x_t"]).permute(0, 3, 1, 2), torch.tensor(given["t"])
    pixels = torch.tensor(np.load(folder / "train.npy")).permute(0, 3, 1, 2)
    net, loss = UNet(32, channels=3, outputs=6), Loss(given["alpha_bar"], given["beta"], given["variance"])
    optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    average = EMAModel(net.parameters(), decay=EMA_DECAY, foreach=True)
    paused, step, marks = 0.0, 0, list(MARKS)
    while marks:
        done = (time.monotonic() - began - paused) / (60 * minutes)
        if done >= marks[0]:
            stopped = time.monotonic()
            average.store(net.parameters())
            average.copy_to(net.parameters())
            index = len(MARKS) - len(marks)
            np.savez(folder / f"answers_{index}.npz", answers=_answers(net, x_t, t), minutes=done * minutes, step=step)
            average.restore(net.parameters())
            marks.pop(0)
            paused += time.monotonic() - stopped
            continue
        for group in optimizer.param_groups:
            group["lr"] = _rate(done)
        x_0 = pixels[torch.randint(0, len(pixels), (BATCH,))].float() / 127.5 - 1
        found = loss(net, x_0)
        optimizer.zero_grad()
        found.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
        optimizer.step()
        average.step(net.parameters())
        step += 1
        if step % 100 == 0:
            print(f"step {step}, {done * minutes:.1f} minutes, loss {found.item():.4f}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
