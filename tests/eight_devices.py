"""Properties of meshes; run by `test_mesh` in a process with eight forced devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpm_jax.training import mesh, step
from tests.test_training import small

MESHES = [(data, fsdp) for data in (1, 2, 4, 8) for fsdp in (1, 2, 4, 8) if data * fsdp == 8]
meshes = st.sampled_from(MESHES)


def test_there_are_eight():
    assert jax.device_count() == 8


@given(shape=meshes, batch=st.integers(1, 40))
@settings(max_examples=12, deadline=None)
def test_a_batch_of_any_size_is_spread_and_gathered(shape, batch):
    x = np.arange(3.0 * batch, dtype=np.float32).reshape(batch, 3)
    with mesh.over_all_devices(*shape):
        placed, whole = jax.jit(lambda x: (mesh.spread(2 * x), mesh.gather(mesh.spread(2 * x))))(x)
    np.testing.assert_array_equal(whole, 2 * x)
    np.testing.assert_array_equal(placed, 2 * x)
    assert whole.sharding.is_fully_replicated
    if batch % 8 == 0:
        assert {shard.data.shape for shard in placed.addressable_shards} == {(batch // 8, 3)}


@given(shape=meshes, batch=st.integers(1, 200))
@settings(deadline=None)
def test_a_batch_is_shared_out_evenly_or_refused(shape, batch):
    with mesh.over_all_devices(*shape):
        if batch % 8:
            with pytest.raises(ValueError, match="can't be shared out evenly among 8 devices"):
                mesh.share(batch)
        else:
            assert mesh.share(batch) == (0, 1)


@given(shape=st.lists(st.sampled_from([1, 3, 8, 64, 96, 256]), max_size=3).map(tuple), chosen=meshes)
@settings(max_examples=10, deadline=None)
def test_a_state_is_placed_as_it_is_sharded(shape, chosen):
    with mesh.over_all_devices(*chosen):
        made = jax.jit(lambda: mesh.shard(jnp.ones(shape)))()
        assert made.sharding.is_equivalent_to(mesh.placement(shape), len(shape))
    np.testing.assert_array_equal(made, np.ones(shape))


@given(shape=meshes, eighths=st.integers(1, 4), parts=st.sampled_from([1, 2]))
@settings(max_examples=4, deadline=None)
def test_a_step_on_any_mesh_is_the_step_on_one_device(shape, eighths, parts):
    built, source = small(
        train__batch_size=8 * eighths * parts,
        train__accumulate=parts,
        network__time_mlp__features=(128, 128),
    )
    data = jax.jit(lambda key: source.supply(key, built.config.train.batch_size))
    x_0 = np.asarray(data(jax.random.key(5)))

    def run(state, x_0):
        new, loss, norm = step.train_step(built, state, jax.random.key(6), mesh.spread(x_0))
        return mesh.shard(new), loss, norm

    alone = jax.jit(run)(step.init(built), x_0)
    with mesh.over_all_devices(*shape):
        found = jax.jit(run)(jax.jit(lambda: mesh.shard(step.init(built)))(), x_0)
    np.testing.assert_allclose(found[1], alone[1], rtol=1e-5)
    np.testing.assert_allclose(found[2], alone[2], rtol=1e-4)
    # Adam's first step is of one size wherever the gradient is, so the moments say more than the parameters.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(np.abs(b).max(initial=1e-6))),
        jax.device_get(found[0].opt_state),
        jax.device_get(alone[0].opt_state),
    )
