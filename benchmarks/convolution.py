"""Convolution layers, and a small net of them, against XLA's own and against PyTorch's.

  python -m benchmarks.convolution

Prints images a second of `dpm_jax.nets.convolution`, forward and forward + backward, and how
many times as fast that is as the stock convolution of JAX and as PyTorch with channels last, where
it is installed. JAX runs in a `lax.while_loop`, as train steps do. All three are timed in turn, in
one process; numbers are medians, and medians of the ratios of one turn (of one turn only, where XLA's own
takes many times as long). On a machine with other work the ratios say little: JAX and PyTorch share
cores differently.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from statistics import median
from typing import Any

import jax
from jax import Array, lax

from dpm_jax.nets.convolution import conv

REPEATS = 5
SECONDS = 0.03  # that one timing of ours should take
REST = 0.02  # before each timing: the threads of the one before may still wait for work, in a loop

# Batch, height, width, inputs, outputs, size of the kernel.
SHAPES = [
    (64, 28, 28, 20, 20, 3),
    (64, 28, 28, 20, 20, 5),
    (64, 14, 14, 32, 32, 3),
    (64, 14, 14, 64, 64, 3),
    (64, 7, 7, 64, 64, 3),
    (64, 16, 16, 64, 64, 3),
    (64, 32, 32, 32, 32, 3),
]
NET = (1, 20, 20, 20, 2)  # channels, 3x3 kernels, 28x28 pixels
BATCH = 64

Convolution = Callable[[Array, Array], Array]


def stock(x: Array, kernel: Array) -> Array:
    """Convolve as XLA does, which `conv` is timed against."""
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def repeat(step: Callable[[Any], Any], state: Any) -> Callable[[int], None]:
    """Run a state -> state step many times in one dispatch."""
    run = jax.jit(lambda state, num: lax.while_loop(lambda s: s[0] < num, lambda s: (s[0] + 1, step(s[1])), (0, state)))
    return lambda num: jax.block_until_ready(run(state, num))  # type: ignore[no-any-return]


def layer(f: Convolution, shape: tuple[int, ...], backward: bool) -> Callable[[int], None]:
    """Run one layer; every number computed goes into the next state, so that none is left out."""
    batch, height, width, inputs, outputs, size = shape
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, height, width, inputs))
    kernel = jax.random.normal(keys[1], (size, size, inputs, outputs)) / size / inputs**0.5
    g = jax.random.normal(keys[2], (batch, height, width, outputs))

    def forward(state: tuple[Array, Array]) -> tuple[Array, Array]:
        x, kernel = state
        return lax.dynamic_update_slice(x, 1e-9 * f(x, kernel)[:1, :1, :1, :1], (0, 0, 0, 0)), kernel

    def both(state: tuple[Array, Array]) -> tuple[Array, Array]:
        y, pull = jax.vjp(f, *state)
        dx, dkernel = pull(g + 1e-9 * y[0, 0, 0, 0])
        return state[0] - 1e-9 * dx, state[1] - 1e-9 * dkernel

    return repeat(both if backward else forward, (x, kernel))


def net(f: Convolution) -> Callable[[int], None]:
    """Run train steps of the net, by gradient descent."""
    x = jax.random.normal(jax.random.key(0), (BATCH, 28, 28, NET[0]))
    kernels = [
        jax.random.normal(jax.random.key(i), (3, 3, *channels)) / 3 / channels[0] ** 0.5
        for i, channels in enumerate(pairwise(NET))
    ]

    def loss(kernels: list[Array]) -> Array:
        h = x
        for kernel in kernels[:-1]:
            h = jax.nn.leaky_relu(f(h, kernel))
        return (f(h, kernels[-1]) ** 2).mean()

    def step(kernels: list[Array]) -> list[Array]:
        _, gradients = jax.value_and_grad(loss)(kernels)
        return [a - 1e-3 * b for a, b in zip(kernels, gradients, strict=True)]

    return repeat(step, kernels)


def torch_layer(torch: Any, shape: tuple[int, ...], backward: bool) -> Callable[[int], None]:
    """`layer` in PyTorch."""
    batch, height, width, inputs, outputs, size = shape
    module = torch.nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    module = module.to(memory_format=torch.channels_last)
    x = torch.randn(batch, inputs, height, width).to(memory_format=torch.channels_last).requires_grad_(backward)
    g = torch.randn(batch, outputs, height, width).to(memory_format=torch.channels_last)

    def run(num: int) -> None:
        for _ in range(num):
            if backward:
                module.weight.grad = x.grad = None
                module(x).backward(g)
            else:
                with torch.no_grad():
                    module(x)

    return run


def torch_net(torch: Any) -> Callable[[int], None]:
    """`net` in PyTorch."""
    layers: list[Any] = []
    for inputs, outputs in pairwise(NET):
        layers += [torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), torch.nn.LeakyReLU(0.01)]
    module = torch.nn.Sequential(*layers[:-1]).to(memory_format=torch.channels_last)
    x = torch.randn(BATCH, NET[0], 28, 28).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(module.parameters(), 1e-3)

    def run(num: int) -> None:
        for _ in range(num):
            optimizer.zero_grad()
            (module(x) ** 2).mean().backward()
            optimizer.step()

    return run


def seconds(run: Callable[[int], None], num: int) -> float:
    """Wall time of one of `num` turns."""
    time.sleep(REST)
    start = time.perf_counter()
    run(num)
    return (time.perf_counter() - start) / num


def compare(runs: list[Callable[[int], None]], batch: int) -> str:
    """Images a second of the first, and how many times as fast it is as each other one."""
    for run in runs:
        run(1)
    num = max(1, round(SECONDS / seconds(runs[0], 2)))
    # The stock gradients take up to 40 times as long: no need to measure them as often.
    slow = [seconds(run, 1) > 5 * SECONDS / num for run in runs]
    times = [
        [
            seconds(run, 1 if long else num) if not long or turn == 0 else float("nan")
            for run, long in zip(runs, slow, strict=True)
        ]
        for turn in range(REPEATS)
    ]
    ratios = [median(row[i] / row[0] for row in times if row[i] > 0) for i in range(1, len(runs))]
    return f"{batch / median(row[0] for row in times):9.0f}/s" + "".join(f"{ratio:8.2f}" for ratio in ratios)


def main() -> None:
    """Print one line a shape, and one for the net."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch: Any = None
    if find_spec("torch") and jax.default_backend() == "cpu":
        torch = import_module("torch")
        torch.set_num_threads(cores)
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {cores} cores, median of {REPEATS}")
    print(f"torch {torch.__version__}" if torch else "torch: not installed, or not on this device; left out")
    against = "   stock" + ("   torch" if torch else "")
    print(f"{'B, H, W, inputs, outputs, k':>28}  {'forward':>11}{against}  {'+ backward':>11}{against}")
    for shape in SHAPES:
        cells = []
        for backward in (False, True):
            runs = [layer(conv, shape, backward), layer(stock, shape, backward)]
            cells.append(compare(runs + ([torch_layer(torch, shape, backward)] if torch else []), shape[0]))
        print(f"{', '.join(map(str, shape)):>28}  {cells[0]}  {cells[1]}", flush=True)
    runs = [net(conv), net(stock)] + ([torch_net(torch)] if torch else [])
    print(f"train step of {len(NET) - 1} layers, {NET} channels at 28x28, batch {BATCH}: {compare(runs, BATCH)}")


if __name__ == "__main__":
    main()
