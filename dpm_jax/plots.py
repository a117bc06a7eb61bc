"""Pictures. Functions of arrays; they know neither models nor files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter

from dpm_jax.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Drift",
    "animate",
    "bit_trajectories",
    "bits",
    "image_grid",
    "image_pairs",
    "images",
    "per_step_kl",
    "pixels",
    "point_trajectories",
    "points",
    "save",
]

_BLUE, _INK = "#2166ac", "#222222"


class Drift(NamedTuple):
    """A vector field at one time: positions [n, 2], arrows [n, 2]."""

    position: np.ndarray
    arrow: np.ndarray


def save(figure: Figure, path: Path) -> None:
    """Write as PNG and forget the figure.

    Raises:
      UserError: if the file can't be written.
    """
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        plt.close(figure)


def pixels(figure: Figure) -> np.ndarray:
    """The figure as [height, width, 4] uint8."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba()).copy()  # type: ignore[attr-defined]


def _plane(axes: Axes, limit: float) -> None:
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal")


def _scatter(axes: Axes, x: np.ndarray, limit: float) -> None:
    axes.scatter(x[:, 0], x[:, 1], s=1.2, color=_BLUE, alpha=0.6, linewidths=0)
    _plane(axes, limit)


def point_trajectories(
    times: Sequence[int],
    forward: Sequence[np.ndarray],
    reverse: Sequence[np.ndarray],
    drift_times: Sequence[int],
    drift: Sequence[Drift],
    title: str,
    limit: float = 3.0,
) -> Figure:
    """The paper's Figure 1: forward chain, learned reverse chain, drift; a column a time.

    Args:
      times: of the columns.
      forward: samples of q(x_t), [n, 2] each.
      reverse: samples of the model's x_t, [n, 2] each.
      drift_times: of the last row, where t = 0 has no step.
      drift: f_mu(x, t) - x at those times.
      title: over the whole.
      limit: of both axes.
    """
    figure, grid = plt.subplots(3, len(times), figsize=(3 * len(times), 9.4), layout="constrained", squeeze=False)
    for column, t in enumerate(times):
        grid[0, column].set_title(f"t = {t}")
        _scatter(grid[0, column], forward[column], limit)
        _scatter(grid[1, column], reverse[column], limit)
        axes = grid[2, column]
        field = drift[column]
        axes.quiver(*field.position.T, *field.arrow.T, color=_INK, angles="xy", width=0.004)
        _plane(axes, limit)
        axes.set_xlabel(f"t = {drift_times[column]}")
    for row, name in enumerate(("forward  $q(x_t)$", "learned reverse  $p(x_t)$", r"drift  $f_\mu(x_t, t) - x_t$")):
        grid[row, 0].set_ylabel(name, fontsize=12)
    figure.suptitle(title)
    return figure


def points(x: np.ndarray, limit: float | None = None) -> Figure:
    """A scatter plot of [n, d >= 2] points, first two coordinates; of [n, 1], a histogram."""
    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    if x.shape[1] == 1:
        axes.hist(x[:, 0], bins=100, color=_BLUE)
        return figure
    axes.scatter(x[:, 0], x[:, 1], s=2, color=_BLUE, alpha=0.5, linewidths=0)
    if limit is None:
        axes.set_aspect("equal", adjustable="datalim")
    else:
        _plane(axes, limit)
    return figure


def _rows(axes: Axes, x: np.ndarray, title: str) -> None:
    axes.imshow(x, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest", aspect="equal")
    axes.set(xticks=[], yticks=[], title=title)


def bits(x: np.ndarray, most: int = 60) -> Figure:
    """Bit strings [n, d], one a row, the first `most` of them."""
    shown = x[:most]
    figure, axes = plt.subplots(figsize=(4, 1 + 4 * len(shown) / shown.shape[1]), layout="constrained")
    _rows(axes, shown, f"{len(shown)} of {len(x)} samples")
    return figure


def bit_trajectories(times: Sequence[int], reverse: Sequence[np.ndarray], data: np.ndarray, title: str) -> Figure:
    """The paper's Figure 2: rows of noise, of the chain on its way, of samples, and of data.

    Args:
      times: of the columns, falling.
      reverse: the model's x_t, [n, d] each.
      data: [n, d].
      title: over the whole.
    """
    num = len(times) + 1
    height = 1.2 + 2.6 * data.shape[0] / data.shape[1]
    figure, grid = plt.subplots(1, num, figsize=(2.6 * num, height), layout="constrained", squeeze=False)
    for axes, t, x in zip(grid[0], times, reverse, strict=False):
        name = {times[0]: "noise, ", 0: "samples, "}.get(t, "")
        _rows(axes, x, f"{name}t = {t}")
    _rows(grid[0, -1], data, "data")
    figure.suptitle(title)
    return figure


def image_grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Images [n, H, W, C] on a grid as near to a square as can be, one array; gaps are of the least value."""
    num, height, width, channels = images.shape
    columns = columns or int(np.ceil(np.sqrt(num)))
    rows = -(-num // columns)
    grid = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), images.min(), images.dtype)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        grid[top : top + height, left : left + width] = image
    return grid


def _show(axes: Axes, grid: np.ndarray, title: str) -> None:
    if grid.dtype != np.uint8:
        low, high = float(grid.min()), float(grid.max())
        grid = (grid - low) / max(high - low, 1e-12)
    shown = grid[..., 0] if grid.shape[-1] != 3 else grid
    # Three channels carry their own range.
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255 if grid.dtype == np.uint8 else 1, interpolation="nearest")
    axes.set(xticks=[], yticks=[], title=title)


def images(samples: np.ndarray, title: str = "") -> Figure:
    """A grid of images [n, H, W, C], uint8 or real; of more than 3 channels, the first."""
    grid = image_grid(samples)
    side = 7 / max(grid.shape[:2])
    size = (side * grid.shape[1], side * grid.shape[0] + (0.4 if title else 0))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    _show(axes, grid, title)
    return figure


def image_pairs(samples: np.ndarray, beside: np.ndarray, title: str, titles: tuple[str, str]) -> Figure:
    """Two grids of images [n, H, W, C] side by side, image by image."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 6.6), layout="constrained")
    for one, grid, name in zip(axes, (samples, beside), titles, strict=True):
        _show(one, image_grid(grid), name)
    figure.suptitle(title)
    return figure


def per_step_kl(kl: Sequence[float], log_nsr: np.ndarray, unit: str) -> Figure:
    """KL of each reverse step in bits, [T + 1], against t, and what it sums to from T down."""
    t = np.arange(2, len(kl))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    left.plot(t, kl[2:], color=_BLUE, marker="." if len(t) < 60 else None)
    left.set(xlabel="t", ylabel=f"KL of the step ({unit})", title="Where the bound is spent")
    right.plot(log_nsr[2:] / np.log(10), np.cumsum(kl[2:]), color=_BLUE)
    right.set(xlabel=r"$\log_{10} \nu_t$ (noise-to-signal ratio)", ylabel=f"sum over s = 2..t ({unit})")
    right.set_title("The same against the noise level")
    return figure


def animate(times: np.ndarray, states: np.ndarray, path: Path, binary: bool) -> None:
    """A trajectory from noise to samples as an animated GIF that rests at the end.

    Args:
      times: [n], falling to 0.
      states: [n, num, d] points or bits, or [n, num, H, W, C] images.
      path: of the GIF.
      binary: whether the states are bits.
    """
    figure, axes = plt.subplots(figsize=(4.4, 4.6), layout="constrained")
    ends = states[[0, -1]].reshape(-1, *states.shape[2:])
    frames = [*range(len(states)), *[len(states) - 1] * 12]

    def draw(frame: int) -> list[object]:
        axes.clear()
        if states.ndim == 5:
            _show(axes, image_grid(states[frame][:64]), "")
        elif binary:
            _rows(axes, states[frame][:40], "")
        else:
            axes.scatter(states[frame][:, 0], states[frame][:, 1], s=1.2, color=_BLUE, alpha=0.6, linewidths=0)
            low, high = ends.min(0), ends.max(0)
            axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        axes.set_title(f"t = {times[frame]}")
        return []

    animation = FuncAnimation(figure, draw, frames=frames)  # type: ignore[arg-type]
    animation.save(path, writer=PillowWriter(fps=12), dpi=80)
    plt.close(figure)
