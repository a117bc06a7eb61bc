"""Print reports as aligned tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dpm_jax.evaluation.estimate import Estimate

__all__ = ["Cell", "aligned"]

Cell = str | int | float | Estimate | None


def aligned(title: str, rows: Iterable[Sequence[Cell]], header: Sequence[str] = (), number: str = ".4f") -> str:
    """Return a table for the screen: the title, the header if there is one, and a line for each row.

    Args:
      title: first line.
      rows: of equally many cells: names are aligned on the left, and numbers on their points, an `Estimate` as
        `mean +- stderr`. A row with an unknown number, None or `Estimate()`, is left out.
      header: names of the columns.
      number: format of real numbers.
    """
    known = [row for row in rows if all(map(_is_known, row))]
    lines = [[_text(cell, number) for cell in row] for row in known]
    widths = [max(map(len, column)) for column in zip(*lines, *([header] if header else []), strict=True)]
    if header:
        names = zip(header, known[0], widths, strict=True)
        lines.insert(0, [name if isinstance(cell, str) else name.rjust(width) for name, cell, width in names])
    spread = (" ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join([title, *(f"  {line}".rstrip() for line in spread)])


def _is_known(cell: Cell) -> bool:
    return (cell.mean if isinstance(cell, Estimate) else cell) is not None


def _text(cell: Cell, number: str) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:>6}"
    mean, stderr = cell if isinstance(cell, Estimate) else (cell, None)
    return f"{mean:>10{number}}" + ("" if stderr is None else f" +- {stderr:{number}}")
