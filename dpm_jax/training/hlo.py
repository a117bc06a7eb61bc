"""Operations of a compiled program, read from its text: what goes between chips, and to and from their memory."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Collective", "Operation", "Part", "Product", "collectives", "operations", "parts", "products"]

_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
# %name = TYPE operation(operands), ...; a type may be a tuple.
_LINE = re.compile(
    r"^\s*(?:ROOT )?%(?P<name>[^ ]+) = (?P<type>\(.*?\)|[^ ]+) (?P<op>[a-z][a-z0-9-]*)\((?P<operands>[^)]*)\)"
)
_SOURCE = re.compile(r'op_name="([^"]*)"')
_PRECISION = re.compile(r"operand_precision=\{(\w+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_ARRAY = re.compile(r"\b(?P<dtype>pred|[a-z]+\d+)\w*\[(?P<shape>[\d,]*)\](?P<layout>\{[^}]*\})?")
# Operations that move no data.
_NOTHING = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id")


class Collective(NamedTuple):
    """All operations of one kind.

    Attributes:
      name: as XLA names it.
      num: how many; in the body of a loop once.
      num_bytes: of their results on one chip.
    """

    name: str
    num: int
    num_bytes: int


class Operation(NamedTuple):
    """One operation of the program.

    Attributes:
      kind: as XLA names it, such as "fusion".
      source: what it is of in the traced program, such as "jit(step)/jvp(UNet)/.../add"; empty where nobody says.
      num_bytes: that it reads from memory and writes to it; what lies in the chip's own store does not count.
      cycles: of the chip's clock, as the compiler estimates; 0 where it does not say.
    """

    kind: str
    source: str
    num_bytes: int
    cycles: int


class Part(NamedTuple):
    """All operations of one part of the traced program.

    Attributes:
      name: innermost module of the network, or scope, and the primitive: "Conv/conv_general_dilated, backward". Where
        XLA has made one operation of several, it is the last one's; its kind, where nobody says what it is of.
      num: how many operations.
      num_bytes: see `Operation`.
      cycles: see `Operation`.
    """

    name: str
    num: int
    num_bytes: int
    cycles: int


class Product(NamedTuple):
    """All matrix products and convolutions of one kind.

    Attributes:
      dtype: of the operands, as XLA names it, such as "f32"; the widest, if they differ.
      precision: "default", "high" or "highest".
      num: how many; in the body of a loop once.
    """

    dtype: str
    precision: str
    num: int


def collectives(text: str) -> tuple[Collective, ...]:
    """Return the collective operations of a program's HLO text, by kind."""
    found: dict[str, list[int]] = {}
    for line in map(_parsed, text.splitlines()):
        # Those that are started and finished have their result where they are finished.
        if line and (name := line["op"].removesuffix("-done")) in _COLLECTIVES:
            found.setdefault(name, []).append(sum(_sizes(line["type"])))
    return tuple(Collective(name, len(found[name]), sum(found[name])) for name in _COLLECTIVES if name in found)


def products(text: str) -> tuple[Product, ...]:
    """Return the matrix products and convolutions of a program's HLO text, in all of its computations, by kind."""
    dtypes: dict[str, str] = {}
    found: dict[tuple[str, str], int] = {}
    for raw in text.splitlines():
        if not (line := _parsed(raw)):
            continue
        if array := _ARRAY.match(line["type"]):
            dtypes[line["name"]] = array["dtype"]
        if line["op"] in ("dot", "convolution"):
            operands = [dtypes[name] for name in re.findall(r"%([^ ,]+)", line["operands"]) if name in dtypes]
            precision = _PRECISION.search(raw)
            kind = max(operands, key=_width, default=dtypes[line["name"]]), precision[1] if precision else "default"
            found[kind] = found.get(kind, 0) + 1
    return tuple(Product(*kind, num) for kind, num in sorted(found.items()))


def operations(text: str) -> list[Operation]:
    """Return the operations of a program's HLO text, each as often as it stands in the main computation.

    Bodies of loops are left out. Sizes are without the padding of layouts.
    """
    sizes: dict[str, int] = {}
    found = []
    main = text[text.index("\nENTRY ") :].split("\n}", 1)[0]
    for raw in main.splitlines()[2:]:
        if not (line := _parsed(raw)):
            continue
        written = _sizes(line["type"], memory_only=True)
        sizes[line["name"]] = sum(written)
        if line["op"] in _NOTHING or line["op"].endswith("-done"):
            continue
        if line["op"].endswith("-start"):
            # Its result names both ends of what it moves, of which one may be a slice, and something to wait for.
            ends, in_memory = _sizes(line["type"])[:2], written[:2]
            num_bytes = min(ends, default=0) * sum(size > 0 for size in in_memory)
        else:
            num_bytes = sum(written) + sum(sizes.get(name, 0) for name in re.findall(r"%([^ ,]+)", line["operands"]))
        source = _SOURCE.search(raw)
        cycles = _CYCLES.search(raw)
        source_name, num_cycles = (match[1] if match else "" for match in (source, cycles))
        found.append(Operation(line["op"], source_name, num_bytes, int(num_cycles or 0)))
    return found


def parts(operations: Iterable[Operation]) -> tuple[Part, ...]:
    """Return the parts of a program, those with the most cycles first."""
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        found.setdefault(_part(operation.source) or operation.kind, []).append(operation)
    summed = (
        Part(name, len(of), sum(one.num_bytes for one in of), sum(one.cycles for one in of))
        for name, of in found.items()
    )
    return tuple(sorted(summed, key=lambda part: -part.cycles))


def _part(source: str) -> str:
    *path, primitive = re.split(r"[/()]+", source)
    # Flax names a module by its class and a number. The first two say which function was compiled.
    modules = [re.sub(r"_\d+$", "", name).lstrip("_") for name in path if re.match("_?[A-Z]", name)]
    scopes = [name for name in path[2:3] if name not in ("jit", "jvp", "transpose")]
    inner = "/".join([*(modules or scopes)[-1:], primitive])
    if "transpose" in path:
        return f"{inner}, backward"
    return f"{inner}, forward" if "jvp" in path else inner


def _parsed(line: str) -> re.Match[str] | None:
    return _LINE.match(re.sub(r"/\*.*?\*/", "", line)) if " = " in line else None


def _sizes(type_: str, memory_only: bool = False) -> list[int]:
    """Bytes of each array of a tuple; 0 for those in another store than memory, if only that counts."""
    return [
        0
        if memory_only and re.search(r"S\([1-9]", array["layout"] or "")
        else math.prod(int(n) for n in array["shape"].split(",") if n) * _width(array["dtype"])
        for array in _ARRAY.finditer(type_)
    ]


def _width(dtype: str) -> int:
    """Bytes of a number."""
    return 1 if dtype == "pred" else max(int(re.sub(r"\D", "", dtype)) // 8, 1)
