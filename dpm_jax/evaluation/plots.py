"""Pictures. Functions of arrays; they know neither models nor files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.patches import Circle
from PIL import Image

from dpm_jax.errors import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "INK",
    "RED",
    "Drift",
    "animate",
    "bit_trajectories",
    "bits",
    "image_grid",
    "image_pairs",
    "image_rows",
    "images",
    "observations",
    "pixels",
    "point_trajectories",
    "points",
    "save",
    "save_images",
]

BLUE, RED, INK = "#2166ac", "#b2182b", "#222222"
# What is hidden, told from every grey.
_HIDDEN = (0.62, 0.80, 0.96)
# Of saved pictures.
_DPI = 120


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
        with writing(path):
            figure.savefig(path, dpi=_DPI)
    finally:
        plt.close(figure)


def save_images(samples: np.ndarray, folder: Path) -> list[str]:
    """Write each image as a PNG file, 0000.png, 0001.png, ..., pixel by pixel.

    Args:
      samples: [N, H, W, C], 1 or 3 channels; uint8, or real numbers, of which the range of all becomes 0..255.
      folder: to write to.

    Returns:
      The names.

    Raises:
      UserError: if a file cannot be written.
    """
    if samples.dtype != np.uint8:
        low, high = float(samples.min()), float(samples.max())
        samples = np.round((samples - low) * (255 / (high - low or 1))).astype(np.uint8)
    digits = max(4, len(str(len(samples) - 1)))
    names = [f"{i:0{digits}}.png" for i in range(len(samples))]
    for name, image in zip(names, samples, strict=True):
        with writing(folder / name):
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / name)
    return names


def pixels(figure: Figure) -> np.ndarray:
    """Return the figure as [height, width, 4] uint8."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba()).copy()  # type: ignore[attr-defined]


def _scatter(axes: Axes, x: np.ndarray) -> None:
    axes.scatter(x[:, 0], x[:, 1], s=1.2, color=BLUE, alpha=0.6, linewidths=0)


def point_trajectories(
    times: Sequence[int],
    forward: Sequence[np.ndarray],
    reverse: Sequence[np.ndarray],
    drift_times: Sequence[int],
    drift: Sequence[Drift],
    title: str,
) -> Figure:
    """Draw the paper's Figure 1: forward chain, learned reverse chain, drift; a column a time.

    Args:
      times: of the columns.
      forward: samples of q(x_t), [n, 2] each.
      reverse: samples of the model's x_t, [n, 2] each.
      drift_times: of the last row, where t = 0 has no step.
      drift: f_mu(x, t) - x at those times.
      title: over the whole.
    """
    figure, grid = plt.subplots(3, len(times), figsize=(3 * len(times), 9.4), layout="constrained", squeeze=False)
    for column, t in enumerate(times):
        grid[0, column].set_title(f"t = {t}")
        _scatter(grid[0, column], forward[column])
        _scatter(grid[1, column], reverse[column])
        field = drift[column]
        grid[2, column].quiver(*field.position.T, *field.arrow.T, color=INK, angles="xy", width=0.004)
        for axes in grid[:, column]:
            axes.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")
        grid[2, column].set_xlabel(f"t = {drift_times[column]}")
    for row, name in enumerate(("forward  $q(x_t)$", "learned reverse  $p(x_t)$", r"drift  $f_\mu(x_t, t) - x_t$")):
        grid[row, 0].set_ylabel(name, fontsize=12)
    figure.suptitle(title)
    return figure


def points(x: np.ndarray) -> Figure:
    """Draw a scatter plot of [n, d >= 2] points, first two coordinates; of [n, 1], a histogram."""
    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    if x.shape[1] == 1:
        axes.hist(x[:, 0], bins=100, color=BLUE)
        return figure
    axes.scatter(x[:, 0], x[:, 1], s=2, color=BLUE, alpha=0.5, linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    return figure


def _rows(axes: Axes, x: np.ndarray, title: str) -> None:
    axes.imshow(x, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest", aspect="equal")
    axes.set(xticks=[], yticks=[], title=title)


def bits(x: np.ndarray) -> Figure:
    """Draw bit strings [n, d], one a row, the first 60 of them."""
    shown = x[:60]
    figure, axes = plt.subplots(figsize=(4, 1 + 4 * len(shown) / shown.shape[1]), layout="constrained")
    _rows(axes, shown, f"{len(shown)} of {len(x)} samples")
    return figure


def bit_trajectories(times: Sequence[int], reverse: Sequence[np.ndarray], data: np.ndarray, title: str) -> Figure:
    """Draw the paper's Figure 2: rows of noise, of the chain on its way, of samples, and of data.

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


def images(samples: np.ndarray) -> Figure:
    """Draw a grid of images [n, H, W, C], uint8 or real; of more than 3 channels, the first."""
    grid = image_grid(samples)
    side = 7 / max(grid.shape[:2])
    figure, axes = plt.subplots(figsize=(side * grid.shape[1], side * grid.shape[0]), layout="constrained")
    _show(axes, grid, "")
    return figure


def image_rows(rows: dict[str, np.ndarray]) -> Figure:
    """Draw a row of images [n, H, W, C] for each name."""
    figure, grid = plt.subplots(len(rows), 1, figsize=(8, 0.85 * len(rows)), layout="constrained", squeeze=False)
    for axes, (name, images) in zip(grid[:, 0], rows.items(), strict=True):
        _show(axes, image_grid(images, len(images)), "")
        axes.set_title(name, fontsize=8, loc="left", pad=2)
    return figure


def image_pairs(samples: np.ndarray, beside: np.ndarray, title: str, titles: tuple[str, str]) -> Figure:
    """Two grids of images [n, H, W, C] side by side, image by image."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 6.6), layout="constrained")
    for one, grid, name in zip(axes, (samples, beside), titles, strict=True):
        _show(one, image_grid(grid), name)
    figure.suptitle(title)
    return figure


def observations(
    y: np.ndarray,
    mask: np.ndarray,
    draws: np.ndarray,
    truth: np.ndarray | None = None,
    noise: float = 0.0,
    binary: bool = False,
) -> Figure:
    """Draws from posteriors beside what was observed, and beside the truth; hidden values in light blue.

    Images: a row an observation; truth, observed, draws, their mean. Bits: a panel an observation, with the
    same as rows (the last is the fraction of ones). Other vectors: a panel an observation, of the first two
    coordinates (of one, a histogram): an observed coordinate is a line, a point seen through noise a cross
    in a circle.

    Args:
      y: [n, *shape] observations, in the data's own units; the first dozen are shown.
      mask: bool [n, *shape], True where observed.
      draws: [n, N, *shape], N from the posterior of each; uint8, if pixels.
      truth: [n, *shape]; None where it is not known.
      noise: its standard deviation, the radius of that circle.
      binary: whether these are bits.
    """
    if y.ndim == 4:
        return _observed_images(y, mask, draws, truth)
    return _observed_bits(y, mask, draws, truth) if binary else _observed_points(y, mask, draws, truth, noise)


def _observed_images(y: np.ndarray, mask: np.ndarray, draws: np.ndarray, truth: np.ndarray | None) -> Figure:
    channels = 3 if y.shape[-1] == 3 else 1
    known = draws if truth is None else np.concatenate([draws.ravel(), truth.ravel()])
    low, high = (0.0, 255.0) if draws.dtype == np.uint8 else (float(known.min()), float(known.max()))

    def colours(x: np.ndarray) -> np.ndarray:
        grey = np.clip((np.asarray(x[..., :channels], np.float64) - low) / max(high - low, 1e-12), 0, 1)
        return np.broadcast_to(grey, (*grey.shape[:-1], 3))

    observed = np.where(mask[..., :channels].any(-1, keepdims=True), colours(y), _HIDDEN)
    num_draws, num = draws.shape[1], len(y)
    columns = [] if truth is None else [("truth", colours(truth))]
    columns += [("observed", observed)]
    columns += [(f"draw {i + 1}" if num_draws > 1 else "draw", colours(draws[:, i])) for i in range(min(num_draws, 6))]
    columns += [(f"mean of {num_draws}", colours(draws.mean(1)))] if num_draws > 1 else []

    height, width = y.shape[1:3]
    # Of whole pixels on the screen, so that all look alike.
    scale = max((200 if num == 1 else 96) // max(height, width), 1)
    shown = min(num, 12, max(3600 // (height * scale), 1))
    gap = -(-4 // scale)
    canvases = [(title, _stack(images[:shown], gap)) for title, images in columns]
    # One observation has room for a second row.
    lines = -(-len(canvases) // 5) if num == 1 else 1
    return _tiles(canvases, -(-len(canvases) // lines), scale)


def _stack(images: np.ndarray, gap: int) -> np.ndarray:
    """Images [n, H, W, 3] below each other, white between them."""
    apart = np.pad(images, ((0, 0), (0, gap), (0, 0), (0, 0)), constant_values=1.0)
    return apart.reshape(-1, *images.shape[2:])[:-gap]


def _tiles(canvases: Sequence[tuple[str, np.ndarray]], columns: int, scale: int) -> Figure:
    """Titled canvases [h, w, 3] of one size on a grid, `scale` pixels of the saved picture for each of theirs."""
    height, width = (scale * size for size in canvases[0][1].shape[:2])
    margin, head = 10, 26
    across, down = max(width, 64) + margin, height + margin + head
    lines = -(-len(canvases) // columns)
    total = (columns * across + margin, lines * down + margin)
    figure = plt.figure(figsize=(total[0] / _DPI, total[1] / _DPI))
    for i, (title, canvas) in enumerate(canvases):
        left, bottom = margin + (i % columns) * across, total[1] - (i // columns + 1) * down
        axes = figure.add_axes((left / total[0], bottom / total[1], width / total[0], height / total[1]))
        axes.imshow(canvas, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        axes.set_title(title, fontsize=9, pad=4)
    return figure


def _panels(num: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return up to a dozen axes on a grid, each of this size in inches."""
    num = min(num, 12)
    columns = min(num, 4)
    lines = -(-num // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(columns * width, lines * height), layout="constrained", squeeze=False
    )
    for axes in grid.flat[num:]:
        axes.set_axis_off()
    return figure, list(grid.flat[:num])


def _observed_bits(y: np.ndarray, mask: np.ndarray, draws: np.ndarray, truth: np.ndarray | None) -> Figure:
    num, num_draws, length = draws.shape
    shown = draws[:, : 30 if num == 1 else 8]
    parts = [] if truth is None else [("truth", truth[:, None])]
    parts += [("observed", y[:, None]), ("draws", shown)]
    parts += [("mean", draws.mean(1, keepdims=True))] if num_draws > 1 else []
    names = [name for name, rows in parts for _ in range(rows.shape[1])]
    every = np.concatenate([rows for _, rows in parts], axis=1)
    # Long strings are drawn with flat bits.
    row = max(3.0 / length, 0.13)
    figure, panels = _panels(num, 3.6, 0.3 + row * len(names))
    for i, axes in enumerate(panels):
        rows = every[i]
        seen = np.ones_like(rows, bool)
        above = names.index("observed")
        seen[above] = mask[i]
        ink = np.repeat(1 - rows.astype(np.float64)[..., None], 3, axis=-1)
        axes.imshow(np.where(seen[..., None], ink, _HIDDEN), interpolation="nearest", aspect="auto", vmin=0, vmax=1)
        ends = [above + 0.5, *([above - 0.5] if above else []), *([len(rows) - 1.5] if num_draws > 1 else [])]
        axes.hlines(ends, -0.5, length - 0.5, color=RED, linewidth=1)
        ticks = [j for j, name in enumerate(names) if j == names.index(name)]
        axes.set_yticks(ticks, [names[j] for j in ticks], fontsize=8)
        axes.tick_params(length=0)
        axes.set_xticks([])
    return figure


def _observed_points(
    y: np.ndarray, mask: np.ndarray, draws: np.ndarray, truth: np.ndarray | None, noise: float
) -> Figure:
    figure, panels = _panels(len(y), 3.0, 3.0)
    if y.shape[-1] == 1:
        for i, axes in enumerate(panels):
            axes.hist(draws[i, :, 0], bins=40, color=BLUE)
            axes.axvline(float(y[i, 0]), color=INK)
            if truth is not None:
                axes.axvline(float(truth[i, 0]), color=RED, linestyle="--")
        return figure
    shown = len(panels)
    ends = [draws[:shown, :, :2].reshape(-1, 2), *([] if truth is None else [truth[:shown, :2]])]
    ends += [np.where(mask, y, np.nan)[:shown, :2] + side * noise for side in (-1, 1)]
    everything = np.concatenate(ends)
    low, high = np.nanmin(everything, 0), np.nanmax(everything, 0)
    half = np.maximum((high - low) * 0.55, 1e-6)
    # One scale for both axes, unless that would flatten one of them.
    alike = half.max() < 5 * half.min()
    half = np.full(2, half.max()) if alike else half
    left, right = (low + high) / 2 - half, (low + high) / 2 + half
    # Few draws are drawn large enough to be seen.
    size = float(np.clip(2000 / draws.shape[1], 3, 30))
    for i, axes in enumerate(panels):
        (x, y_), (seen_x, seen_y) = y[i, :2], mask[i, :2]
        if seen_x and seen_y:
            axes.plot(x, y_, "+", color=INK, markersize=12, zorder=4)
            axes.add_patch(Circle((x, y_), noise, fill=False, color=INK, linewidth=0.8))
        elif seen_x:
            axes.axvline(x, color=INK, linewidth=0.8)
        elif seen_y:
            axes.axhline(y_, color=INK, linewidth=0.8)
        axes.scatter(draws[i, :, 0], draws[i, :, 1], s=size, color=BLUE, alpha=0.4, linewidths=0, zorder=3)
        if truth is not None:
            axes.plot(truth[i, 0], truth[i, 1], "o", color=RED, markersize=5, zorder=5)
        axes.set(xlim=(left[0], right[0]), ylim=(left[1], right[1]), aspect="equal" if alike else "auto")
        axes.tick_params(labelsize=7)
    names = ["blue: draws", "cross, line: observed", *(["red: truth"] if truth is not None else [])]
    figure.suptitle("; ".join(names), fontsize=9)
    return figure


def animate(times: np.ndarray, states: np.ndarray, path: Path, binary: bool) -> None:
    """Draw a trajectory from noise to samples as an animated GIF that rests at the end.

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
            _scatter(axes, states[frame])
            low, high = ends.min(0), ends.max(0)
            axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        axes.set_title(f"t = {times[frame]}")
        return []

    animation = FuncAnimation(figure, draw, frames=frames)  # type: ignore[arg-type]
    animation.save(path, writer=PillowWriter(fps=12), dpi=80)
    plt.close(figure)
