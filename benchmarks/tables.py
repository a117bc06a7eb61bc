"""Tables of figures: printed, and written into the documents that show them."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

__all__ = ["DOCUMENTS", "Table", "cores", "figure", "machine", "write"]

ROOT = Path(__file__).resolve().parent.parent

# Whatever lies between <!-- begin NAME --> and <!-- end NAME --> in these is a table.
DOCUMENTS = (ROOT / "docs" / "benchmarks.md",)


class Table(NamedTuple):
    """One table.

    Attributes:
      name: of its place in a document.
      command: that measures it.
      header: names of the columns.
      rows: cells.
      note: what else has to be said; may be empty.
    """

    name: str
    command: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """As it stands in a document."""
        lines = [
            f"| {' | '.join(self.header)} |",
            "|" + "---|" * len(self.header),
            *(f"| {' | '.join(row)} |" for row in self.rows),
            "",
            f"(`{self.command}`; {machine()}.{' ' + self.note if self.note else ''})",
        ]
        return "\n".join(lines)


def figure(value: float) -> str:
    """Three digits, without an exponent."""
    digits = f"{value:.3g}"
    return f"{float(digits):,.0f}" if abs(value) >= 100 else digits


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """Return the machine and versions that the figures were measured with."""
    kind = f"{cores()} CPU cores" if jax.default_backend() == "cpu" else jax.devices()[0].device_kind
    return f"{kind}, Python {platform.python_version()}, jax {jax.__version__}"


def write(tables: Iterable[Table]) -> list[Path]:
    """Put tables in their places; the documents that had one."""
    texts = {path: path.read_text() for path in DOCUMENTS}
    changed = []
    for table in tables:
        for path, text in texts.items():
            begin, end = f"<!-- begin {table.name} -->", f"<!-- end {table.name} -->"
            place = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
            if place.search(text):
                whole = f"{begin}\n{table.markdown()}\n{end}"
                texts[path] = place.sub(lambda _: whole, text)  # noqa: B023
                changed.append(path)
    for path in set(changed):
        path.write_text(texts[path])
    return sorted(set(changed))
