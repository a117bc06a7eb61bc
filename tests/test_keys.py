"""One key, one use: what is drawn twice from one key is the same noise twice.

`split` makes named keys; `fold_in` is for counters, on a key that is neither split nor drawn from, because
fold_in(key, i) is split(key)[i].
"""

from collections import Counter

import jax
import numpy as np
import pytest
from jax.errors import KeyReuseError

from dpm_jax.evaluation import likelihood_report, observations, posterior_samples, report
from dpm_jax.training import build, feed, step
from dpm_jax.training import config as config_lib

_DRAWS = ("normal", "uniform", "bits", "bernoulli", "categorical", "permutation", "randint", "choice")


class Watch:
    """Counts, by the keys' values, of draws, splits and folds."""

    def __init__(self, monkeypatch):
        self.drawn, self.split, self.folded = Counter(), Counter(), Counter()
        kinds = {"split": self.split, "fold_in": self.folded} | dict.fromkeys(_DRAWS, self.drawn)
        for name, found in kinds.items():
            monkeypatch.setattr(jax.random, name, self._watched(getattr(jax.random, name), found))

    @staticmethod
    def _watched(real, found):
        def call(key, *arguments, **options):
            data = jax.random.key_data(key)
            jax.debug.callback(lambda data: found.update(map(bytes, np.asarray(data).reshape(-1, 2))), data)
            return real(key, *arguments, **options)

        return call

    def check(self):
        jax.effects_barrier()
        assert len(self.drawn) > 2
        # To split twice is to name the same keys: it is their draws that count.
        assert max(self.drawn.values()) == 1
        assert not set(self.drawn) & set(self.split)
        assert not set(self.folded) & (set(self.drawn) | set(self.split))


@pytest.fixture
def watch(monkeypatch):
    yield Watch(monkeypatch)
    jax.clear_caches()


@pytest.mark.parametrize("draw", [jax.random.split, jax.random.bits])
def test_a_key_that_is_used_twice_is_an_error(watch, draw):
    with jax.debug_key_reuse(True), pytest.raises(KeyReuseError):
        jax.jit(lambda key: (jax.random.normal(key), draw(key)))(jax.random.key(3))


def test_the_watch_sees_what_is_used_twice(watch):
    @jax.jit
    def twice(key):
        return jax.random.normal(jax.random.fold_in(key, 1)) + jax.random.normal(jax.random.split(key)[1])

    twice(jax.random.key(3))
    jax.effects_barrier()
    assert max(watch.drawn.values()) == 2
    assert set(watch.folded) == set(watch.split)


def built(**changes):
    config = config_lib.default()
    config.update_from_flattened_dict(
        {
            "num_timesteps": 4,
            "data.swiss_roll.noise": 0.1,
            "schedule.geometric.beta_1": 1e-2,
            "network.time_mlp.features": (4,),
            "network.time_mlp.num_frequencies": 2,
            "train.batch_size": 8,
            "train.steps": 3,
            **changes,
        }
    )
    source = build.source(config)
    return build.experiment(config, source.shape), source


def trains():
    experiment, source = built()
    data = feed.open_feed(source.supply, 0, 8, 0, 10)
    step.make_run_steps(experiment, data.draw)(step.init(experiment), 3, None)


def evaluates():
    experiment, source = built()
    params = experiment.init(jax.random.key(2))
    bound_key, ais_key = jax.random.split(jax.random.key(1))
    result = report.evaluate(bound_key, experiment, params, source, 8, 0)
    likelihood_report.evaluate(ais_key, experiment, params, source, result, 1, 4)


def samples():
    experiment, source = built()
    params = experiment.init(jax.random.key(2))
    draw_key, hidden_key = jax.random.split(jax.random.key(1))
    x_0, mask = np.asarray([[0.5, -1.0]], np.float32), np.asarray([[True, False]])
    seen = observations.Observations(np.where(mask, x_0, 0), mask, 0.0, x_0)
    plan = posterior_samples.Plan("denoised", num_particles=4)
    draws = posterior_samples.draw(draw_key, experiment, params, source.standardization, seen, 3, plan)
    posterior_samples.log_hidden(hidden_key, experiment, params, source.standardization, seen, draws, 2)


def restores():
    """Take the loss of a cold chain whose degradation is random."""
    network = {"network.name": "multiscale", "network.multiscale.num_scales": 1}
    cold = {"kernel": "cold", "train.objective": "restoration", "cold.degradation": "mask"}
    experiment, _ = built(**{"data.name": "dead_leaves", "data.dead_leaves.size": 4}, **network, **cold)
    params = experiment.init(jax.random.key(2))
    jax.jit(experiment.loss)(params, jax.random.key(1), np.zeros((2, 4, 4, 1)), experiment.memory)


@pytest.mark.parametrize("program", [trains, evaluates, samples, restores])
def test_no_key_is_used_twice(watch, program):
    with jax.debug_key_reuse(True):
        program()
    watch.check()
