"""The report of AIS, sandwich and entropies, without training: of the best model of bits, and of an untrained one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpm_jax import forward_edge, likelihood, optimal, units
from dpm_jax.configs import heartbeat, swiss_roll
from dpm_jax.evaluation import likelihood_report, plots, report, report_plots
from dpm_jax.evaluation.estimate import Estimate, keyed
from dpm_jax.training import build, storage

GAP = Estimate(0.125, 0.25)


def evaluated(config, k, num, best=None):
    """The experiment, its model replaced by best(process, source) if given; its source; the report."""
    source = build.source(config)
    built = build.experiment(config, source.shape)
    params = built.init(jax.random.key(0))
    if best is not None:
        process = built.model(params).process
        built = built._replace(model=lambda _: best(process, source))
    of_bound = report.Report(**dict.fromkeys(report.Report._fields))._replace(gap_bits=GAP)
    result = likelihood_report.evaluate(jax.random.key(2), built, params, source, of_bound, k, num)
    return built, source, result


def best_bits(process, source):
    return forward_edge(optimal.finite_bits(process, source.support, jnp.full(5, -jnp.log(5.0))))


def test_short_strings_of_bits_are_enumerated_beside_ais(tmp_path):
    config = heartbeat.get_config()
    config.num_timesteps, config.data.heartbeat.length = 12, 10
    built, source, result = evaluated(config, 300, 40, best_bits)
    assert result.ais_k == [1, 10, 100, 300]
    assert result.ais_examples == 40
    ais = result.ais_bits.mean
    assert (np.diff(ais) >= 0).all()
    # All heartbeats' probabilities by the model, and the mean of those that were drawn.
    strings, log_p = likelihood.enumerate_bits(built.model(None), 10)
    known = {tuple(s): p for s, p in zip(np.asarray(strings), np.asarray(units.bits(log_p)), strict=True)}
    of_support = [known[tuple(s)] for s in np.asarray(source.support)]
    assert min(of_support) <= result.exact_bits <= max(of_support)
    gaps, stderrs = result.ais_to_exact_bits
    assert (np.diff(gaps) <= 0).all()
    assert abs(gaps[-1]) < 5 * stderrs[-1] + 0.5 / result.ais_ess[-1]
    # Each example has the same log-probability under the data's law.
    assert result.ais_gap_bits.mean[-1] == pytest.approx(-np.log2(5) - ais[-1])
    both = result.sandwich
    assert (np.diff(both.width_bits.mean) <= 0).all()
    found = result.entropy_bounds_bits
    t, true = found.true
    np.testing.assert_array_equal(t, range(2, 13))
    assert (found.lower[t] - 1e-5 <= true).all()
    assert (true <= found.upper[t] + 1e-5).all()
    assert (found.model[t] > true - 0.02).all()
    assert result.entropy_production_bits == GAP
    storage.json_text(keyed(result))
    table = likelihood_report.table(result, source.unit)
    assert f"{result.exact_bits:.4f}" in table
    assert "AIS, k = 300" in table
    plots.save(report_plots.likelihood(result, source.unit), tmp_path / "likelihood.png")
    assert (tmp_path / "likelihood.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("T", [1, 2])
def test_short_chains_are_reported_and_drawn(T, tmp_path):
    config = swiss_roll.get_config()
    config.num_timesteps = T
    _, source, result = evaluated(config, 1, 2)
    assert result.ais_k == [1]
    assert result.exact_bits is None
    assert result.ais_to_exact_bits == Estimate()
    assert result.entropy_bounds_bits.true is None
    assert len(result.entropy_bounds_bits.model) == T + 1
    assert np.isfinite(result.entropy_bounds_bits.model[1:]).all()
    storage.json_text(keyed(result))
    likelihood_report.table(result, source.unit)
    plots.save(report_plots.likelihood(result, source.unit), tmp_path / "likelihood.png")


def test_what_is_not_said_is_affordable():
    assert likelihood_report.largest_k((2,)) == 1000
    assert likelihood_report.largest_k((28, 28, 1)) == 10
    assert likelihood_report.num_examples((2,), 20, 1000) == 100
    assert likelihood_report.num_examples((20,), 1000, 1000) == 10
    assert likelihood_report.num_examples((28, 28, 1), 50, 10) == 16
    assert likelihood_report.num_examples((28, 28, 1), 1000, 10) == 4
