"""Counted operations against sums done by hand, and against XLA's count of a program that has no loops."""

import jax
import jax.numpy as jnp
import pytest

from dpm_jax.configs import mnist
from dpm_jax.nets.convolution import conv
from dpm_jax.training import build, chips, cost, flops, mesh, step
from tests.test_training import small


def test_matrix_products_and_convolutions_by_hand():
    a, b = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))
    assert flops.count(jnp.matmul, a, b) == 2 * 3 * 4 * 5 * 6
    x, kernel = jnp.ones((2, 7, 9, 4)), jnp.ones((3, 3, 4, 6))
    once = 2 * (2 * 7 * 9 * 6) * (3 * 3 * 4)
    # Ours has branches for platforms, of the same work; each gradient costs as much as the value.
    assert flops.count(conv, x, kernel) == once
    both = jax.value_and_grad(lambda x, kernel: conv(x, kernel).sum(), argnums=(0, 1))
    assert flops.count(both, x, kernel) == 3 * once


def test_loops_branches_and_calls():
    square = jnp.ones((5, 5))
    once = 2 * 5**3
    assert flops.count(lambda a: jax.lax.scan(lambda c, _: (c @ a, None), a, None, length=7)[0], square) == 7 * once
    assert flops.count(jax.jit(jax.checkpoint(lambda a: jnp.sin(a @ a))), square) == once
    assert flops.count(lambda a: jax.lax.cond(a[0, 0] > 0, lambda a: a @ a @ a, lambda a: a @ a, a), square) == 2 * once
    assert flops.count(lambda a: jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ c, a), square) == once
    assert flops.count(jnp.sin, square) == 0


def test_of_a_network_as_xla_counts():
    built = build.experiment(mnist.get_config(), (28, 28, 1))
    params = jax.eval_shape(built.init, jax.random.key(0))
    x, t = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    counted = jax.jit(built.network).lower(params, x, t).cost_analysis()["flops"]
    # XLA counts everything else, too, and there is not much of it.
    assert 0.9 * counted < flops.count(built.network, params, x, t) < counted


def test_a_step_costs_the_same_however_it_is_cut():
    costs = []
    for changes in ({}, {"train__accumulate": 4}):
        built, _ = small(**changes)
        costs.append(cost.step_flops(built, jax.eval_shape(lambda: step.init(built))))  # noqa: B023
    assert costs[0] == costs[1] > 0


def test_what_chips_are_known_by():
    assert chips.chip("TPU v5 lite").flops == 197e12
    assert chips.chip("NVIDIA H100 80GB HBM3").bandwidth == 3350e9
    assert chips.chip("TPU v5e") == chips.chip("TPU v5 lite") != chips.chip("TPU v5") == chips.chip("TPU v5p")
    assert chips.chip("cpu") is chips.chip("TPU v4 lite") is None


def test_utilization_is_logged_where_the_chip_is_known(monkeypatch, tmp_path):
    from dpm_jax.training import loop
    from dpm_jax.training.metrics import read

    monkeypatch.setitem(chips.CHIPS, "cpu", chips.Chip(1e12, 1e11, 1e9))
    built, source = small()
    loop.train(built, source, tmp_path)
    state = jax.eval_shape(lambda: mesh.shard(step.init(built)))
    for line in read(tmp_path / "metrics.jsonl"):
        expected = line["steps_per_second"] * cost.step_flops(built, state) / 1e12
        assert line["utilization"] == pytest.approx(expected, rel=1e-6)
