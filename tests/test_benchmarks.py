"""Every config that the benchmarks time can be built of random pixels, without files."""

from importlib import import_module

import pytest

from benchmarks import sampler, train_step, versions
from dpm_jax.training import build

CASES = (*sampler.CASES, *versions.CASES)


@pytest.mark.parametrize("name", sorted({*train_step.CONFIGS, *(case[0] for case in CASES)}))
def test_every_config_that_is_timed_can_be_built(name):
    config = import_module(f"dpm_jax.configs.{name}").get_config()
    source = train_step.source_of(config)
    built = build.experiment(config, source.shape, source.standardization)
    assert (source.standardization.spectrum is None) == (config.noise == "white")
    assert built.shape == source.shape
