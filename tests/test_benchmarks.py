"""Every config that the benchmarks time can be built of random pixels, without files."""

from importlib import import_module

import jax.numpy as jnp
import pytest

from benchmarks import sampler, train_step, versions
from benchmarks.peers import networks, with_dpm_jax
from dpm_jax.training import build

CASES = (*sampler.CASES, *versions.CASES)


@pytest.mark.parametrize("name", sorted({*train_step.CONFIGS, *(case[0] for case in CASES)}))
def test_every_config_that_is_timed_can_be_built(name):
    config = import_module(f"dpm_jax.configs.{name}").get_config()
    source = train_step.source_of(config)
    built = build.experiment(config, source.shape, source.standardization)
    assert (source.standardization.spectrum is None) == (config.noise == "white")
    assert built.shape == source.shape


@pytest.mark.parametrize("steps", [3, 1000])
def test_the_chain_beside_other_libraries_has_the_steps_that_it_is_timed_for(monkeypatch, steps):
    seen = []

    def sample(key, model, num, shape):
        seen.append(model.num_timesteps)
        return jnp.zeros((num, *shape))

    monkeypatch.setattr(with_dpm_jax.sampling, "sample", sample)
    monkeypatch.setattr(with_dpm_jax.work, "taken", lambda run, steps: (run(), 1.0)[1])
    with_dpm_jax._both(networks.Fractional(networks.MLP()), (2,), 8, 1, steps)
    assert seen == [steps]
