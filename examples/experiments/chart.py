"""One figure of a grid: K against one factor, in small multiples of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from examples.experiments.table import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Layout", "multiples"]

_COLOURS = ("#2166ac", "#b2182b", "#1b7837", "#762a83")
_STYLES: Final[tuple[Literal["-", "--", ":", "-."], ...]] = ("-", "--", ":", "-.")
_INK = "#222222"


class Layout(NamedTuple):
    """Layout of a chart: the factor that each of its properties shows.

    Attributes:
      x: along the axis; numbers.
      column: one column of panels a level.
      colour: of the line.
      style: of the line.
      line: one row of panels a level; None for one row.
    """

    x: str
    column: str
    colour: str
    style: str
    line: str | None = None


def _levels(rows: Sequence[Row], factor: str | None) -> list[str | int | float | None]:
    return [None] if factor is None else list(dict.fromkeys(row.factors[factor] for row in rows))


def multiples(rows: Sequence[Row], layout: Layout, limit: float, floor: float) -> Figure:
    """K of all runs; what lies below `floor` is a triangle on the lower edge, and what diverged a cross.

    Args:
      rows: the runs.
      layout: see there.
      limit: of K, a line.
      floor: lower end of the axis, bits.
    """
    lines, columns = _levels(rows, layout.line), _levels(rows, layout.column)
    size = (2.4 * len(columns) + 1.8, 2.3 * len(lines) + 0.6)
    figure, axes = plt.subplots(
        len(lines), len(columns), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for across, line in zip(axes, lines, strict=True):
        for panel, column in zip(across, columns, strict=True):
            fitting = [
                row
                for row in rows
                if row.factors[layout.column] == column and (layout.line is None or row.factors[layout.line] == line)
            ]
            _panel(panel, fitting, rows, layout, floor)
            panel.axhline(limit, color=_INK, linewidth=0.8)
            panel.set_title(f"{column}" if layout.line is None else f"{column}, {line}", fontsize=8)
    axes[0, 0].set_ylim(floor, limit + 0.06 * (limit - floor))
    _label(figure, axes[0, 0], rows, layout)
    return figure


def _panel(axes: Axes, fitting: Sequence[Row], rows: Sequence[Row], layout: Layout, floor: float) -> None:
    for colour, of_colour in zip(_COLOURS, _levels(rows, layout.colour), strict=False):
        for style, of_style in zip(_STYLES, _levels(rows, layout.style), strict=False):
            runs = [
                row
                for row in fitting
                if row.factors[layout.colour] == of_colour and row.factors[layout.style] == of_style
            ]
            x = [float(row.factors[layout.x]) for row in runs]
            k = [float("nan") if row.k_bits is None else max(row.k_bits, floor) for row in runs]
            axes.plot(x, k, style, color=colour, linewidth=1.2)
            for row, x_row, k_row in zip(runs, x, k, strict=True):
                gone = row.k_bits is None
                marker = "x" if gone else "v" if k_row == floor else "."
                axes.plot(x_row, floor if gone else k_row, marker, color=colour, markersize=5, clip_on=False)


def _label(figure: Figure, corner: Axes, rows: Sequence[Row], layout: Layout) -> None:
    ticks = [float(str(level)) for level in _levels(rows, layout.x)]
    corner.set_xscale("log")
    corner.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    corner.xaxis.set_minor_locator(NullLocator())
    for axes in figure.axes:
        axes.tick_params(axis="x", rotation=90, labelsize=7)
    figure.supxlabel(layout.x, fontsize=9)
    figure.supylabel("K, bits", fontsize=9)
    colours = zip(_COLOURS, _levels(rows, layout.colour), strict=False)
    styles = zip(_STYLES, _levels(rows, layout.style), strict=False)
    handles = [Line2D([], [], color=colour, label=f"{layout.colour} {level}") for colour, level in colours]
    handles += [Line2D([], [], color=_INK, linestyle=style, label=f"{layout.style} {level}") for style, level in styles]
    handles += [Line2D([], [], color=_INK, linewidth=0.8, label="limit")]
    figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)
