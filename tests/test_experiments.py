"""Grids of runs: lanes are the runs that they would be alone, and records, tables and commands do as they say."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpm_jax.data.sources import Stream
from dpm_jax.errors import UserError
from dpm_jax.training import build
from dpm_jax.training import config as config_lib
from dpm_jax.training import step as step_lib
from examples.experiments import __main__ as command
from examples.experiments import chart, lanes, record, table
from examples.experiments.lanes import Lane
from examples.experiments.record import Outcome
from examples.experiments.table import Row

STEPS = 8


def small():
    config = config_lib.default()
    config.num_timesteps = 5
    config.schedule.name = "linear"
    config.network.time_mlp.features = (8,)
    config.network.time_mlp.num_frequencies = 4
    config.train.batch_size = 16
    config.train.steps = STEPS
    config.train.max_skipped = 1
    return build.experiment(config, (2,)), build.source(config)


# A rate of infinity is not finite after the first step.
LANES = [
    Lane(1e-2, adam=True),
    Lane(1e-2, momentum=0.9, decay_rate=0.01),
    Lane(np.inf),
    Lane(3e-3),
]


@pytest.fixture(scope="module")
def trained():
    built, source = small()
    program = lanes.build([built], lanes.stack(LANES), source.supply)
    half, _ = program.run_steps(program.start, STEPS // 2)
    states, failed_at = program.run_steps(half, STEPS - STEPS // 2)
    x_0 = source.held_out(jax.random.key(1), 30)
    return program, states, failed_at[0], program.evaluate(jax.random.key(2), states, x_0)[0]


@pytest.mark.parametrize(
    ("lane", "optimizer"),
    [
        (0, lambda: optax.adam(1e-2, b1=0.9, b2=0.99)),
        (1, lambda: optax.sgd(optax.exponential_decay(1e-2, STEPS, 0.01), momentum=0.9)),
        (3, lambda: optax.sgd(3e-3)),
    ],
)
def test_a_lane_is_the_run_that_optax_alone_trains(trained, lane, optimizer):
    """Beside a lane that diverges."""
    built, source = small()
    alone = built._replace(optimizer=optax.chain(optax.clip_by_global_norm(1.0), optimizer()))
    run_steps = step_lib.make_run_steps(alone, lambda key, _: source.supply(key, 16))
    state, progress = run_steps(step_lib.init(alone), STEPS)
    assert int(progress.failed_at) == -1
    found = jax.tree.map(lambda leaves: leaves[lane], trained[1][0])
    before = step_lib.init(alone)
    moved = optax.tree.norm(optax.tree.sub(state.params, before.params))
    assert moved > 1e-3
    for name in ("params", "average"):
        apart = optax.tree.norm(optax.tree.sub(getattr(found, name), getattr(state, name)))
        assert apart < 1e-4 * moved, name


def test_a_diverging_lane_is_marked_and_the_others_are_not(trained):
    _, states, failed_at, k = trained
    assert failed_at[2] > 0
    assert (failed_at[[0, 1, 3]] == -1).all()
    assert np.isfinite(k[[0, 1, 3]]).all()
    assert not np.isfinite(k[2]).any()
    assert states[0].step[0] == STEPS


def test_k_of_a_lane_is_that_of_its_model(trained):
    from dpm_jax import bound

    built, source = small()
    state = jax.tree.map(lambda leaves: leaves[0], trained[1][0])
    model = built.model(step_lib.averaged_params(built, state))
    x_0 = source.held_out(jax.random.key(1), 30)
    # Each example has 400 draws of noise.
    k = jax.jit(jax.vmap(lambda key: bound.evaluate(key, model, x_0).k))(jax.random.split(jax.random.key(9), 400))
    apart = (trained[3][0] - k.mean(0)) / k.std(0)
    assert abs(apart.mean()) < 4 / np.sqrt(30)
    assert np.abs(apart).max() < 6
    assert np.corrcoef(trained[3][0], k.mean(0))[0, 1] > 0.5


def test_what_training_costs_is_measured(trained):
    assert trained[0].compile_seconds > 0
    assert trained[0].num_bytes > 4 * sum(leaf.size for leaf in jax.tree.leaves(trained[1]))


def test_a_stream_from_the_host_is_refused():
    with pytest.raises(ValueError, match="supply"):
        lanes.build([small()[0]], lanes.stack(LANES), Stream(lambda *_: iter(()), lambda _, batch: jnp.asarray(batch)))


def outcome(cell, k=1.0):
    factors = {"optimizer": "Adam", **cell}
    rows = [Row(factors, k, 0.01, None, 1.0, 2.0), Row(factors | {"optimizer": "SGD"}, None, None, 7, 1.0, 2.0)]
    return Outcome(cell, 1.0, 2.0, 3.0, 4.0, rows)


def test_an_interrupted_grid_goes_on_where_it_stopped(tmp_path):
    path, cells, ran = tmp_path / "new" / "grid.json", [{"T": 40}, {"T": 100}, {"T": 200}], []

    def run(cell):
        if cell["T"] == 200 and len(ran) < 3:
            ran.append("interrupted")
            raise KeyboardInterrupt
        ran.append(cell["T"])
        return outcome(cell)

    with pytest.raises(KeyboardInterrupt):
        record.complete(path, {"steps": 5}, cells, run, lambda _: None)
    assert [p["cell"] for p in json.loads(path.read_text())["programs"]] == cells[:2]
    said = []
    outcomes = record.complete(path, {"steps": 5}, cells, run, said.append)
    assert ran == [40, 100, "interrupted", 200]
    assert outcomes == [outcome(cell) for cell in cells]
    assert "already" in said[0]
    with pytest.raises(UserError, match="is of other settings: steps 5, now 6; choose another --out"):
        record.complete(path, {"steps": 6}, cells, run, said.append)
    path.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        record.complete(path, {"steps": 5}, cells, run, said.append)


def test_runs_that_diverge_have_no_k():
    nats = np.log(2.0) * np.array([1.0, 2.0, 3.0])
    fine = table.row({"T": 40}, nats, -1, 1.0, 2.0)
    assert fine.k_bits == pytest.approx(2)
    assert fine.stderr_bits == pytest.approx(1 / np.sqrt(3))
    assert fine.failed_at is None
    for k, failed_at in ((nats, 3), (np.array([np.nan, 1.0]), -1), (np.array([-np.inf, 1.0]), -1)):
        assert table.row({"T": 40}, k, failed_at, 1.0, 2.0).k_bits is None


def test_table_summary_and_csv(tmp_path):
    rows = outcome({"T": 40}).rows + outcome({"T": 100}, k=2.0).rows
    lines = table.table(rows).splitlines()
    assert lines[0].split() == ["optimizer", "T", "K,", "bits", "s", "MB"]
    assert lines[1].split() == ["Adam", "40", "1.000", "+-", "0.010", "1.00", "2.00"]
    assert lines[2].split() == ["SGD", "40", "diverged", "at", "step", "7", "1.00", "2.00"]
    summary = [line.split() for line in table.summary(rows).splitlines()]
    assert ["optimizer", "Adam", "2.000", "1.500", "1.500", "0", "of", "2"] in summary
    assert ["optimizer", "SGD", "-", "-", "-", "2", "of", "2"] in summary
    assert ["T", "100", "2.000", "2.000", "2.000", "1", "of", "2"] in summary
    assert table.summary(rows).endswith("best of 4 runs: optimizer Adam, T 100: K = 2.000 +- 0.010")
    table.write_csv(rows, tmp_path / "grid.csv")
    with (tmp_path / "grid.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [run["k_bits"] for run in found] == ["1.0", "diverged", "2.0", "diverged"]
    assert found[1] == {
        **{"optimizer": "SGD", "T": "40", "k_bits": "diverged", "stderr_bits": ""},
        **{"failed_at": "7", "seconds": "1.0", "megabytes": "2.0"},
    }
    with pytest.raises(UserError, match="cannot be written"):
        table.write_csv(rows, tmp_path / "nowhere" / "grid.csv")


def test_a_figure_shows_what_is_off_its_axis():
    factors = {"column": "a", "colour": "b", "style": "c"}
    values = {40: 1.0, 100: -50.0, 200: None}
    rows = [Row({"T": t, **factors}, k, None, None, 1.0, 1.0) for t, k in values.items()]
    figure = chart.multiples(rows, chart.Layout("T", "column", "colour", "style"), limit=2.0, floor=-8.0)
    assert [line.get_marker() for line in figure.axes[0].lines if line.get_marker() != "None"] == [".", "v", "x"]
    chart.plt.close(figure)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["swissroll"], "invalid choice: 'swissroll'"),
        (["heartbeat", "--step", "3"], "unrecognized arguments: --step"),
        (["heartbeat", "--quick", "--batch_size", "1"], "config.train.batch_size: must lie in [2, inf), got 1"),
        (["heartbeat", "--quick", "--num_examples", "1"], "config.evaluate.num_examples"),
        (["swiss_roll", "--quick", "--steps", "0"], "config.train.steps"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, words, capsys, tmp_path):
    assert command.main([*arguments, "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert words in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(("name", "num_runs"), [("swiss_roll", 20), ("heartbeat", 8)])
def test_quick_grids_run(name, num_runs, tmp_path, capsys):
    assert command.main([name, "--quick", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"best of {num_runs} runs" in printed
    assert "peak resident memory" in printed
    with (tmp_path / f"{name}.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == num_runs
    assert all(np.isfinite(float(run["k_bits"])) and float(run["seconds"]) > 0 for run in runs)
    assert len({tuple(run.values()) for run in runs}) == num_runs
    assert (tmp_path / f"{name}.png").stat().st_size > 0
    programs = json.loads((tmp_path / f"{name}.json").read_text())["programs"]
    assert sum(len(program["rows"]) for program in programs) == num_runs
