"""All figures of speed and memory, printed, and written into docs/benchmarks.md.

python -m benchmarks                  # all
python -m benchmarks sampler memory   # some
"""

from __future__ import annotations

import sys
from importlib import import_module

from benchmarks.tables import ROOT, write

NAMES = ("train_step", "sampler", "short_chains", "memory", "scaling", "utilization", "start", "peers.compare")


def main() -> None:
    """Measure, print, write."""
    names = sys.argv[1:] or NAMES
    if unknown := set(names) - set(NAMES):
        sys.exit(f"error: benchmarks are {', '.join(NAMES)}; got {', '.join(sorted(unknown))}")
    for name in names:
        tables = import_module(f"benchmarks.{name}").tables()
        for table in tables:
            print(f"\n{table.markdown()}\n", flush=True)
        for path in write(tables):
            print(f"wrote {path.relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    main()
