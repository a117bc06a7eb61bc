"""Optax by name: the same updates as Optax called by hand, and schedules by hand in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpm_jax.errors import UserError
from dpm_jax.training import config as config_lib
from dpm_jax.training import optimizers


def settings(**changes):
    config = config_lib.default().optimizer
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


def steps(optimizer, num=30):
    """Parameters of a quadratic bowl after each step."""
    w = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
    state, seen = optimizer.init(w), []
    for _ in range(num):
        grads = jax.tree.map(lambda x: x**3 + 0.1 * x, w)
        updates, state = optimizer.update(grads, state, w)
        w = optax.apply_updates(w, updates)
        seen.append(float(w["a"][0]))
    return seen


CONSTANT = {"decay__name": "constant_schedule", "warmup_steps": 0, "clip_norm": float("inf"), "learning_rate": 0.05}


@pytest.mark.parametrize(
    ("changes", "by_hand"),
    [
        ({"name": "adam"}, optax.adam(0.05, 0.9, 0.99)),
        ({"name": "adam", "options": "b1=0.5, nesterov=True"}, optax.adam(0.05, 0.5, 0.99, nesterov=True)),
        ({"name": "adamw"}, optax.adamw(0.05, 0.9, 0.99, weight_decay=1e-4)),
        ({"name": "sgd"}, optax.sgd(0.05)),
        ({"name": "sgd", "sgd__momentum": 0.9, "sgd__nesterov": True}, optax.sgd(0.05, 0.9, True)),
        ({"name": "rmsprop", "options": "decay=0.8"}, optax.rmsprop(0.05, decay=0.8)),
        ({"name": "lion"}, optax.lion(0.05)),
        (
            {
                "name": "sgd",
                "decay__name": "exponential_decay",
                "decay__options": "transition_steps=10, decay_rate=0.5",
            },
            optax.sgd(optax.exponential_decay(0.05, 10, 0.5)),
        ),
        (
            {
                "name": "sgd",
                "decay__name": "piecewise_constant_schedule",
                "decay__options": "boundaries_and_scales={5: 0.1}",
            },
            optax.sgd(optax.piecewise_constant_schedule(0.05, {5: 0.1})),
        ),
    ],
)
def test_any_optimizer_by_name(changes, by_hand):
    optimizer, _ = optimizers.build(settings(**{**CONSTANT, **changes}), 100)
    np.testing.assert_allclose(steps(optimizer), steps(by_hand), rtol=1e-5)


def test_warm_up_and_cosine_by_hand():
    rate = optimizers.learning_rate(settings(learning_rate=0.2, warmup_steps=10), 110)
    t = np.arange(111)
    cosine = 0.2 * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * np.clip(t - 10, 0, 100) / 100)))
    expected = np.where(t < 10, 0.2 * t / 10, cosine)
    np.testing.assert_allclose([float(rate(jnp.asarray(s))) for s in t], expected, rtol=1e-5)


def test_a_schedule_ends_with_training_if_not_told():
    rate = optimizers.learning_rate(settings(decay__name="exponential_decay", learning_rate=1.0, warmup_steps=0), 50)
    np.testing.assert_allclose([float(rate(jnp.asarray(s))) for s in (0, 25, 50)], [1, 0.1, 0.01], rtol=1e-5)
    rate = optimizers.learning_rate(settings(decay__name="linear_schedule", decay__options="end_value=0.0"), 50)
    assert float(rate(jnp.asarray(50))) == 0


def test_warm_up_takes_half_of_a_short_run_at_most():
    rate = optimizers.learning_rate(settings(learning_rate=1.0, warmup_steps=200), 10)
    np.testing.assert_allclose([float(rate(jnp.asarray(s))) for s in (0, 4, 5)], [0, 0.8, 1.0], rtol=1e-5)


def test_clipping_is_by_the_global_norm():
    optimizer, _ = optimizers.build(settings(**{**CONSTANT, "name": "sgd", "clip_norm": 1.0}), 10)
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [-0.05 * 0.6, -0.05 * 0.8], rtol=1e-5)


@pytest.mark.parametrize("name", ["warmup_cosine_decay_schedule", "cosine_onecycle_schedule"])
def test_a_schedule_with_a_peak_of_its_own_is_warmed_up_once(name):
    options = "warmup_steps=30" if name.startswith("warmup") else ""
    rate = optimizers.learning_rate(settings(decay__name=name, decay__options=options, warmup_steps=10), 100)
    rates = np.array([rate(jnp.asarray(i)) for i in range(100)])
    peak = rates.argmax()
    assert 20 < peak < 40
    assert (np.diff(rates[: peak + 1]) >= 0).all()
    assert (np.diff(rates[peak:]) <= 0).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [("piecewise_constant_schedule", "boundaries_and_scales=0.1"), ("cosine_decay_schedule", "alpha={[]: 1}")],
)
def test_options_of_the_wrong_kind_are_refused(name, options):
    with pytest.raises(UserError, match=r"config\.optimizer\.decay\.options"):
        optimizers.learning_rate(settings(decay__name=name, decay__options=options), 100)


def test_muon_has_no_scale():
    """Matrices whose gradients are tiny are trained as fast, though Optax takes squared norms to be 1e-8 at least."""
    optimizer, _ = optimizers.build(settings(**{**CONSTANT, "name": "muon"}), 10)
    gradient = jax.random.normal(jax.random.key(0), (6, 4))

    def update(scale):
        params = {"kernel": jnp.zeros_like(gradient)}
        return optimizer.update({"kernel": scale * gradient}, optimizer.init(params), params)[0]["kernel"]

    np.testing.assert_allclose(update(1e-7), update(0.1), rtol=1e-3)


def test_muon_makes_singular_values_alike_of_kernels_as_matrices():
    """Against a singular value decomposition in float64; what is no kernel is Adam's."""
    rng = np.random.default_rng(0)
    shapes = {"conv": (3, 3, 4, 8), "dense": (6, 5), "query": (8, 2, 3), "out": (2, 3, 8)}
    grads = {
        name: {"kernel": rng.normal(size=shape), "bias": rng.normal(size=shape[-1:])} for name, shape in shapes.items()
    }
    grads = {"network": {"params": grads}, "schedule": rng.normal(size=(2, 2))}
    optimizer, _ = optimizers.build(settings(**{**CONSTANT, "name": "muon", "muon__rms": 0.3}), 10)
    grads = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), grads)
    params = jax.tree.map(jnp.zeros_like, grads)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    adam = optax.adam(0.05, 0.9, 0.999, nesterov=True)
    expected, _ = adam.update(grads, adam.init(params))
    np.testing.assert_allclose(updates["schedule"], expected["schedule"], rtol=1e-4)
    for name, shape in shapes.items():
        g, u = (np.asarray(tree["network"]["params"][name]["kernel"], float) for tree in (grads, updates))
        bias = (tree["network"]["params"][name]["bias"] for tree in (updates, expected))
        np.testing.assert_allclose(*bias, rtol=1e-4)
        matrix = (shape[0], -1) if name == "query" else (-1, shape[-1])
        left, _, right = np.linalg.svd(g.reshape(matrix), full_matrices=False)
        between = left.T @ u.reshape(matrix) @ right.T / (0.05 * 0.3 * np.sqrt(u.size / len(right)))
        # A few Newton-Schulz iterations bring singular values to between 0.7 and 1.2.
        np.testing.assert_allclose(between, -0.95 * np.eye(len(right)), atol=0.3, err_msg=name)
        assert np.linalg.norm(u) > 0.6 * 0.05 * 0.3 * np.sqrt(u.size)
