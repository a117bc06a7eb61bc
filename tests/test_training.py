"""The train step: what it computes, that it is one program, and that it goes on exactly where it stopped."""

import itertools
import shutil
from contextlib import ExitStack

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpm_jax.data import sources
from dpm_jax.errors import UserError
from dpm_jax.evaluation import report
from dpm_jax.training import build, feed, loop, step, warm_start, workdir
from dpm_jax.training import checkpoints as checkpoints_lib
from dpm_jax.training import config as config_lib
from dpm_jax.training.checkpoints import Checkpoints
from dpm_jax.training.metrics import MetricsWriter, read
from tests import strict_json


def small(**changes):
    config = config_lib.default()
    config.update_from_flattened_dict(
        {
            "num_timesteps": 10,
            "data.swiss_roll.noise": 0.1,
            "schedule.geometric.beta_1": 1e-3,
            "network.time_mlp.features": (16,),
            "network.time_mlp.num_frequencies": 4,
            "train.steps": 60,
            "train.batch_size": 64,
            "train.log_every": 20,
            "train.checkpoint_every": 40,
            **{name.replace("__", "."): value for name, value in changes.items()},
        }
    )
    source = build.source(config)
    return build.experiment(config, source.shape), source


def run_steps_of(built, source):
    data = feed.open_feed(source.supply, built.config.seed, built.config.train.batch_size, 0, 10)
    return step.make_run_steps(built, data.draw)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_many_steps_in_one_dispatch_are_the_steps_one_by_one():
    built, source = small()
    run = run_steps_of(built, source)
    together, _ = run(step.init(built), 12)
    apart = step.init(built)
    for num in (1, 4, 7):
        apart, _ = run(apart, num)
    same(together, apart)
    assert int(together.step) == 12
    assert run._cache_size() == 1


def quadratic(built, **settings):
    """The experiment with a loss that is known: half the square of the distance of all parameters from x_0's mean."""

    def loss(params, key, x_0, memory):
        return sum(0.5 * jnp.square(leaf - x_0.mean()).sum() for leaf in jax.tree.leaves(params)), memory

    return built._replace(loss=loss, optimizer=optax.sgd(0.1), **settings)


def test_a_dispatch_is_its_steps_by_hand():
    built, _ = small(train__max_skipped=9)
    built = quadratic(built)
    batches = np.random.default_rng(0).normal(size=(5, 64, 2)).astype(np.float32)
    start = jax.device_get(step.init(built).params)
    state, progress = step.make_run_steps(built, lambda key, batch: batch)(step.init(built), 3, batches)
    expected, losses = start, []
    for target in batches[:3].mean((1, 2)):
        losses.append(sum(0.5 * np.square(leaf - target).sum() for leaf in jax.tree.leaves(expected)))
        expected = jax.tree.map(lambda leaf: leaf - 0.1 * (leaf - target), expected)  # noqa: B023
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.params, expected)
    np.testing.assert_allclose(progress.loss, np.mean(losses), rtol=1e-5)
    # The gradient is the distance, so that the norm is the root of twice the loss.
    np.testing.assert_allclose(progress.grad_norm, np.mean(np.sqrt(2 * np.array(losses))), rtol=1e-5)


def test_average_is_corrected_for_its_start():
    built, source = small(optimizer__ema_decay=0.9)
    state = step.init(built)
    same(step.averaged_params(built, state), state.params)
    run = run_steps_of(built, source)
    history = []
    for _ in range(4):
        state, _ = run(state, 1)
        history.append(jax.tree.map(np.array, state.params))
    weights = 0.9 ** np.arange(3, -1, -1)
    weights /= weights.sum()
    expected = jax.tree.map(lambda *leaves: sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)), *history)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        step.averaged_params(built, state),
        expected,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reverse__covariance": "full"},
        {
            "reverse__prediction": "perturbation",
            "reverse__variance": "sigmoid",
            "network__name": "rbf",
            "schedule__learned": True,
        },
        {"schedule__name": "cosine", "edge": "decoder", "train__time_sampler": "antithetic"},
        {"schedule__name": "linear", "num_timesteps": 1000, "train__time_sampler": "uniform"},
        {"num_timesteps": 1},
        {"num_timesteps": 1, "train__time_sampler": "importance"},
        {"train__time_sampler": "importance", "reverse__variance": "interpolated"},
        {"schedule__name": "linear", "reverse__prediction": "epsilon", "reverse__variance": "large"},
        {"schedule__name": "cosine", "reverse__prediction": "v", "reverse__variance": "sigmoid"},
        {"reverse__prediction": "x_0", "reverse__covariance": "full", "optimizer__name": "adamw"},
        {
            "schedule__name": "sigmoid",
            "reverse__prediction": "epsilon",
            "reverse__variance": "small",
            "train__objective": "simple",
        },
        {
            "schedule__name": "linear",
            "reverse__prediction": "epsilon",
            "reverse__variance": "interpolated",
            "train__objective": "hybrid",
            "edge": "decoder",
        },
        {
            "kernel": "binomial",
            "reverse__prediction": "x_0",
            "data__name": "heartbeat",
            "schedule__name": "erase",
            "network__name": "sigmoid_mlp",
        },
    ],
)
def test_every_kind_of_model_learns(changes):
    built, source = small(**{"train__steps": 400, "optimizer__warmup_steps": 20, **changes})
    run = run_steps_of(built, source)
    key = jax.random.key(5)
    before = report.evaluate(key, built, step.init(built).params, source, 500, 0)
    state, progress = run(step.init(built), 400)
    assert int(progress.failed_at) == -1
    after = report.evaluate(key, built, state.params, source, 500, 400)
    assert np.isfinite(after.bound_bits.mean)
    if built.config.num_timesteps > 1:
        assert after.bound_bits.mean > before.bound_bits.mean
        assert after.bound_bits.mean < after.limit_bits + 4 * np.hypot(after.gap_bits.stderr, after.bound_bits.stderr)


def test_learning_beta_changes_the_schedule_and_keeps_its_ends():
    built, source = small(schedule__learned=True)
    start = built.model(step.init(built).params).process.schedule
    state, _ = run_steps_of(built, source)(step.init(built), 60)
    end = built.model(state.params).process.schedule
    assert float(jnp.abs(end.log_nsr[2:-1] - start.log_nsr[2:-1]).max()) > 1e-2
    np.testing.assert_allclose(end.beta[1], start.beta[1], rtol=1e-6)
    np.testing.assert_allclose(end.log_nsr[-1], start.log_nsr[-1], rtol=1e-5)


@pytest.mark.parametrize("objective", ["bound", "limit"])
def test_learning_the_ends_lowers_a_first_noise_that_is_too_high(objective):
    first = {"schedule__geometric__beta_1": 0.3, "schedule__ends_learned": True}
    built, source = small(**first, train__objective=objective, train__steps=200, train__batch_size=256)
    start = step.init(built)
    before = built.model(start.params).process.schedule
    after = built.model(run_steps_of(built, source)(start, 200)[0].params).process.schedule
    assert after.log_nsr[1] < before.log_nsr[1] - 0.02
    assert (after.log_nsr_step[2:] > 0).all()


def test_resumed_training_is_bit_for_bit_the_uninterrupted_one(tmp_path):
    built, source = small()
    whole = loop.train(built, source, tmp_path / "whole")
    first, _ = small(train__steps=60)
    # Stop at step 40 as a kill would: the checkpoint of step 40 is the last thing written.
    state, _ = run_steps_of(first, source)(step.init(first), 40)
    with Checkpoints(tmp_path / "cut") as checkpoints:
        checkpoints.save(40, state, 0.0)
    said = []
    resumed = loop.train(built, source, tmp_path / "cut", said.append)
    assert "resuming from step 40" in said[0]
    same(whole, resumed)
    assert resumed[0] == 60
    assert [line["step"] for line in read(tmp_path / "cut" / "metrics.jsonl")] == [60]


def test_another_batch_size_resumes_from_the_same_state(tmp_path):
    built, source = small(train__steps=20, train__checkpoint_every=20)
    loop.train(built, source, tmp_path)
    workdir.claim(tmp_path, built.config, source)
    larger, source = small(train__steps=21, train__batch_size=128, train__accumulate=2)
    workdir.claim(tmp_path, larger.config, source)
    found = loop.train(larger, source, tmp_path)
    before = run_steps_of(built, source)(step.init(built), 20)[0]
    expected = run_steps_of(larger, source)(before, 1)[0]
    same(found.params, step.averaged_params(larger, expected))
    assert workdir.read(tmp_path).config.train.batch_size == 128


def test_a_new_run_starts_from_the_parameters_of_another(tmp_path):
    built, source = small(train__steps=20)
    first, second = tmp_path / "first", tmp_path / "second"
    workdir.claim(first, built.config, source)
    trained = loop.train(built, source, first).params
    longer, _ = small(train__steps=1, num_timesteps=13, optimizer__learning_rate=1e-12)
    number, initial = warm_start.params_from(first, longer)
    assert number == 20
    # A schedule that only one of them learns starts at its base.
    assert set(warm_start.params_from(first, small(schedule__learned=True)[0])[1]) == {"network"}
    found = loop.train(longer, source, second, initial=initial).params
    chex.assert_trees_all_close(found["network"], trained["network"], rtol=1e-4)
    # Once the run has its own checkpoint, it resumes from that.
    again = loop.train(longer, source, second, initial=jax.tree.map(jnp.zeros_like, initial)).params
    same(again, found)
    wider, _ = small(network__time_mlp__features=(17,))
    with pytest.raises(
        UserError, match=r"--init_from: .*Dense_0/bias has shape \(16,\), and this network's has \(17,\)"
    ):
        warm_start.params_from(first, wider)
    with pytest.raises(UserError, match="not a workdir"):
        warm_start.params_from(tmp_path / "none", longer)


def test_a_finished_run_is_not_trained_again(tmp_path):
    built, source = small()
    first = loop.train(built, source, tmp_path)
    again = loop.train(built, source, tmp_path)
    same(first, again)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    loop.train(built, source, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert [line["step"] for line in read(tmp_path / "metrics.jsonl")] == [20, 40, 60]
    same(loop.load_params(built, tmp_path), first[:2])


def poisoned(source, *steps):
    """The source, from the host, with batches that are not finite at these steps, counted from 0."""

    def batches(seed, size, first=0, **_):
        for number in itertools.count(first):
            batch = np.random.default_rng(number).normal(size=(size, 2)).astype(np.float32)
            yield np.full_like(batch, np.nan) if number in steps else batch

    return source._replace(supply=sources.Stream(batches, lambda key, batch: batch))


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_last_checkpoint(tmp_path):
    built, source = small(train__max_skipped=1)

    with pytest.raises(UserError, match=r"not finite at step 51, the 1. in a row; the checkpoint of step 40 is kept"):
        loop.train(built, poisoned(source, 50), tmp_path)
    assert loop.load_params(built, tmp_path)[0] == 40


def test_the_newest_two_the_best_and_every_nth_checkpoint_are_kept(tmp_path):
    tree = {"a": jnp.arange(3.0)}
    with Checkpoints(tmp_path, keep_every=40) as checkpoints:
        for step_number, loss in ((10, 3.0), (20, 1.0), (30, 2.0), (40, 5.0), (50, 4.0), (60, 3.0), (70, 3.5)):
            checkpoints.save(step_number, tree, loss)
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == [20, 40, 60, 70]


def test_the_best_is_that_with_the_least_loss_on_validation_examples(tmp_path):
    built, source = small(train__checkpoint_every=20)
    found = loop.train(built, source, tmp_path)
    lines = {line["step"]: line["validation_bits"] for line in read(tmp_path / "metrics.jsonl")}
    assert sorted(lines) == [20, 40, 60]
    assert loop.load_params(built, tmp_path, which="best")[0] == max(lines, key=lines.get)
    assert loop.load_params(built, tmp_path, which=40)[0] == 40
    # The log estimates K of the averaged parameters from one t per example; evaluation visits every t.
    result = report.evaluate(jax.random.key(0), built, found.params, source, 20_000, 60)
    spread = read(tmp_path / "metrics.jsonl")[-1]["validation_stderr_bits"]
    assert abs(lines[60] - result.bound_bits.mean) < 4 * np.hypot(spread, result.bound_bits.stderr)
    (tmp_path / "checkpoints" / "losses.json").write_text('{"20": 1.0, "40": 0.5')
    with pytest.raises(UserError, match="it is not known which is the best"):
        loop.load_params(built, tmp_path, which="best")
    with pytest.raises(UserError, match=r"no checkpoint of step 33; there are \["):
        loop.load_params(built, tmp_path, which=33)


def test_the_best_is_known_and_kept_by_who_comes_after(tmp_path):
    def tree(step_number):
        return {"a": jnp.full(3, 1.0 * step_number)}

    with Checkpoints(tmp_path) as checkpoints:
        for step_number, loss in ((10, 3.0), (20, 1.0), (30, 2.0)):
            checkpoints.save(step_number, tree(step_number), loss)
    with Checkpoints(tmp_path) as checkpoints:
        for step_number, loss in ((40, 5.0), (50, float("nan")), (60, 3.0)):
            checkpoints.save(step_number, tree(step_number), loss)
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == [20, 50, 60]
    assert strict_json.files(tmp_path)["checkpoints/losses.json"]["50"] == [None]
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert [float(checkpoints.restore(tree(0), which)["a"][0]) for which in ("best", "newest", 50)] == [20, 60, 50]


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_it_used(tmp_path):
    built, source = small()
    whole = loop.train(built, source, tmp_path)
    for file in (tmp_path / "checkpoints" / "60").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    said = []
    assert loop.load_params(built, tmp_path, said.append)[0] == 40
    assert "60: damaged" in said[0]
    assert said[0].endswith("the checkpoint of step 40 is used in its place")
    again = loop.train(built, source, tmp_path, said.append)
    assert "resuming from step 40" in said[-1]
    same(whole, again)
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert {"40", "60", "60.damaged"} <= set(kept)
    assert loop.load_params(built, tmp_path)[0] == 60


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path):
    built, source = small(train__steps=40, train__log_every=20)
    source = poisoned(source, 5, 6, 30)
    found = loop.train(built, source, tmp_path)
    assert found.step == 40
    lines = read(tmp_path / "metrics.jsonl")
    assert [line["skipped"] for line in lines] == [2, 1]
    assert all(np.isfinite(line["training_bits"]) for line in lines)
    # A skipped step leaves the state as it was before.
    data = feed.open_feed(source.supply, 0, 64, 0, 10)
    run = step.make_run_steps(built, data.draw)
    state = jax.device_get(run(step.init(built), 5, data.take(5))[0])
    after, progress = run(jax.tree.map(jnp.asarray, state), 2, data.take(2))
    same(after._replace(step=state.step, skipped=state.skipped), state)
    assert (int(after.step), int(after.skipped), int(progress.num_skipped)) == (7, 2, 2)
    assert int(after.num_updates) == 5


def test_a_run_whose_last_steps_are_skipped_is_finished(tmp_path):
    built, source = small(train__steps=40, train__max_skipped=3)
    found = loop.train(built, poisoned(source, 38, 39), tmp_path)
    saved = loop.load_params(built, tmp_path)
    same(saved, found[:2])
    assert saved[0] == 40
    # The parameters are those of the last good step.
    data = feed.open_feed(poisoned(source).supply, 0, 64, 0, 40)
    shorter, _ = step.make_run_steps(built, data.draw)(step.init(built), 38, data.take(38))
    same(saved[1], step.averaged_params(built, shorter))
    same(loop.train(built, source, tmp_path), found)


def test_told_to_stop_after_a_skipped_step_it_saves(tmp_path, monkeypatch):
    built, source = small()
    monkeypatch.setattr(loop.StopSignal, "asked", lambda _: True)
    found = loop.train(built, poisoned(source, 0), tmp_path)
    # The first dispatch is of one step, the skipped one.
    assert (found.step, found.stopped) == (1, True)
    assert loop.load_params(built, tmp_path)[0] == 1


class Guard:
    """Refuses implicit transfers while it is on, and counts explicit reads.

    Of transfers from a CPU, which shares its memory, JAX refuses none: numbers that are read one by one are seen here.
    """

    def __init__(self, monkeypatch):
        array, self.on, self.reads, self._asked = type(jnp.zeros(())), False, 0, False
        self._contexts, self._value, self._get = ExitStack(), array._value, jax.device_get
        monkeypatch.setattr(array, "_value", property(self._guarded))
        monkeypatch.setattr(jax, "device_get", self._device_get)

    def _guarded(self, x):
        assert self._asked or not self.on, "an implicit transfer from the device"
        return self._value.__get__(x)

    def _device_get(self, tree):
        self.reads += self.on
        self._asked = True
        try:
            return self._get(tree)
        finally:
            self._asked = False

    def start(self):
        self._contexts.enter_context(jax.transfer_guard("disallow"))
        self.on = True

    def stop(self):
        self._contexts.close()
        self.on = False


@pytest.fixture
def guard(monkeypatch):
    guard = Guard(monkeypatch)
    yield guard
    guard.stop()


def test_the_guard_sees_transfers_in_both_directions(guard):
    x = jnp.arange(3.0)
    total = x.sum()
    guard.start()
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        x + np.arange(3.0)
    for implicit in (float, bool, str):
        with pytest.raises(AssertionError, match="implicit transfer from the device"):
            implicit(total)
    assert jax.device_get(total) == 3
    guard.stop()
    assert (float(total), guard.reads) == (3, 1)


def test_between_dispatches_nothing_is_transferred_but_one_report(tmp_path, guard, monkeypatch):
    """A dispatch is given its own arguments, and validation and saving have the device to themselves."""
    built, source = small(train__steps=20, train__log_every=5)
    make, pause, reads = step.make_run_steps, loop._Log.pause, []

    def make_guarded(experiment, draw):
        run_steps = make(experiment, draw)

        def run(*arguments):
            guard.stop()
            reads.append(guard.reads)
            result = run_steps(*arguments)
            guard.start()
            return result

        return run

    def unguarded(log):
        guard.stop()
        return pause(log)

    monkeypatch.setattr(step, "make_run_steps", make_guarded)
    monkeypatch.setattr(loop._Log, "pause", unguarded)
    loop.train(built, source, tmp_path)
    lines = read(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    # Dispatches begin at 0, 1, 5, 10 and 15: while each of the last four is under way, the one before it is told of.
    assert reads == [0, 0, 1, 2, 3]
    assert guard.reads == 4
    expected = [float(built.learning_rate(number)) for number in (5, 10, 15, 20)]
    np.testing.assert_allclose([line["learning_rate"] for line in lines], expected, rtol=1e-6)


def test_missing_and_damaged_checkpoints_are_refused(tmp_path):
    built, source = small()
    with pytest.raises(UserError, match="no checkpoint"):
        loop.load_params(built, tmp_path)
    loop.train(built, source, tmp_path)
    other, _ = small(network__time_mlp__features=(17,))
    with pytest.raises(UserError, match="of another model or optimizer: it holds"):
        loop.load_params(other, tmp_path)
    for file in (tmp_path / "checkpoints").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match="damaged"):
        loop.load_params(built, tmp_path)


def checkpoint_folders(path):
    return sorted(folder.name for folder in (path / "checkpoints").iterdir() if folder.is_dir())


def files_of(path, step_number):
    folder = path / "checkpoints" / str(step_number)
    return sorted(f for f in folder.rglob("*") if f.is_file() and f.stat().st_size)


@pytest.mark.parametrize("how", ["cut", "flip", "remove"])
def test_damage_to_any_file_of_the_arrays_is_found_and_nothing_is_printed(tmp_path, how, capfd):
    tree = {"a": jnp.arange(3000.0), "b": jnp.zeros((), jnp.int32)}
    with Checkpoints(tmp_path / "whole") as checkpoints:
        for step_number in (10, 20):
            checkpoints.save(step_number, tree, 0.0)
    num = 0
    for number, file in enumerate(files_of(tmp_path / "whole", 20)):
        where = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", where)
        damaged, content = where / file.relative_to(tmp_path / "whole"), bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        if how == "remove":
            damaged.unlink()
        else:
            damaged.write_bytes(content if how == "flip" else content[: len(content) // 2])
        said = []
        with Checkpoints(where, report=said.append) as checkpoints:
            same(checkpoints.restore(tree), tree)
        # The folder's other files are Orbax's notes; without checksums, a checkpoint is one of an older version.
        if damaged.parent.name != "20" or (damaged.name == "checksums.json" and how != "remove"):
            assert f"20: damaged: {damaged.relative_to(where / 'checkpoints' / '20')}" in said[0]
            assert checkpoint_folders(where) == ["10", "20.damaged"]
            num += 1
        else:
            assert (said, checkpoint_folders(where)) == ([], ["10", "20"])
    assert num > 5
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize(
    "error", [MemoryError(), PermissionError(13, "denied"), OSError("503: try later"), ValueError("?")]
)
def test_what_cannot_be_read_just_now_is_tried_again_and_is_no_damage(tmp_path, error, monkeypatch):
    tree = {"a": jnp.arange(3.0)}
    with Checkpoints(tmp_path) as checkpoints:
        for step_number in (10, 20):
            checkpoints.save(step_number, tree, 0.0)
    times = []
    monkeypatch.setattr(checkpoints_lib, "sleep", times.append)

    def failing(function, num):
        def call(*arguments, **more):
            if len(times) < num:
                raise error
            return function(*arguments, **more)

        return call

    for owner, name in ((checkpoints_lib.ocp.CheckpointManager, "restore"), (checkpoints_lib.checksums, "damage")):
        for num in (2, 9):
            said = []
            with monkeypatch.context() as patched:
                patched.setattr(owner, name, failing(getattr(owner, name), num))
                with Checkpoints(tmp_path, report=said.append) as checkpoints:
                    if num == 2:
                        same(checkpoints.restore(tree), tree)
                    else:
                        with pytest.raises(UserError, match=r"20: cannot be read: .*; it is left as it is") as told:
                            checkpoints.restore(tree)
                        assert len(str(told.value).splitlines()) == 1
            assert (len(times), said, checkpoint_folders(tmp_path)) == (2, [], ["10", "20"])
            times.clear()


def test_metrics_after_the_resumed_step_are_dropped(tmp_path):
    with MetricsWriter(tmp_path, 0) as metrics:
        for s in (10, 20, 30):
            metrics.scalars(s, {"training_bits": float(s)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    with MetricsWriter(tmp_path, 20) as metrics:
        metrics.scalars(25, {"training_bits": 1.0})
    assert [line["step"] for line in read(tmp_path / "metrics.jsonl")] == [10, 20, 25]


def test_report_of_an_untrained_model_is_in_closed_form():
    """An untrained model is the forward chain from N(0, I) run backwards: K is the log-density of N(0, I)."""
    built, source = small()
    result = report.evaluate(jax.random.key(0), built, step.init(built).params, source, 5000, 0)
    null = -np.log2(2 * np.pi * np.e)  # of data of unit variance
    assert result.null_bits == pytest.approx(null, abs=0.1)
    assert abs(result.gain_bits.mean) < 4 * result.gain_bits.stderr < 0.2
    assert abs(result.bound_bits.mean - null) < 4 * result.bound_bits.stderr < 0.3
    assert result.edge_bits == pytest.approx(null - np.log2(1e-3), abs=1e-3)
    sigma2 = float(built.model(step.init(built).params).process.schedule.sigma2[-1])
    assert result.prior_kl_bits == pytest.approx(-np.log2(sigma2), abs=1e-3)
    assert result.kl_bits == pytest.approx(-np.log2(1e-3) + np.log2(sigma2), abs=4 * result.gain_bits.stderr + 0.1)
    assert sum(result.per_step_kl_bits) == pytest.approx(result.kl_bits, rel=1e-4)
    assert len(result.per_step_kl_bits) == 11
    assert result.limit_bits - result.bound_bits.mean == pytest.approx(
        result.gap_bits.mean, abs=5 * result.bound_bits.stderr
    )


def test_report_in_chunks_covers_every_example(monkeypatch):
    built, source = small()
    params = step.init(built).params
    monkeypatch.setattr(report, "_CHUNK", 64)
    cut = report.evaluate(jax.random.key(0), built, params, source, 150, 0)
    monkeypatch.setattr(report, "_CHUNK", 4096)
    whole = report.evaluate(jax.random.key(0), built, params, source, 150, 0)
    assert cut.num_examples == whole.num_examples == 150
    assert cut.null_bits == pytest.approx(whole.null_bits, rel=1e-5)
    assert abs(cut.bound_bits.mean - whole.bound_bits.mean) < 4 * (cut.bound_bits.stderr + whole.bound_bits.stderr)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    """Compare the gradients for a loss that is a mean over examples without noise; the parts get different keys."""
    built, _ = small(train__accumulate=4, train__batch_size=32)
    x_0 = jax.random.normal(jax.random.key(8), (32, 2))

    def loss(params, key, x_0, memory):
        return built.network(params, x_0, jnp.ones(len(x_0), jnp.int32)).mean() + x_0.mean(), memory

    made, state = built._replace(loss=loss, optimizer=optax.sgd(1.0)), step.init(built)
    state = state._replace(opt_state=optax.sgd(1.0).init(state.params))
    found, value, grad_norm = step.train_step(made, state, jax.random.key(7), x_0)
    (expected, _), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, None, x_0, ())
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grad_norm, optax.tree.norm(gradient), rtol=1e-5)
    moved = optax.tree.sub(state.params, found.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), moved, gradient)

    def noise(params, key, x_0, memory):
        return jax.random.normal(key), (*memory[1:], jax.random.normal(key))

    drawn = step._loss_and_grads(built._replace(loss=noise), state._replace(memory=(jnp.zeros(()),) * 4),
                                 jax.random.key(7), x_0)[1]  # fmt: skip
    assert len({float(value) for value in drawn}) == 4


def test_accumulating_remembers_what_every_part_has_seen():
    built, source = small(train__accumulate=4, train__batch_size=32, train__time_sampler="importance")
    before = step.init(built)
    after, _, _ = step.train_step(built, before, jax.random.key(7), source.supply(jax.random.key(8), 32))
    assert float(after.memory.visits.sum() - before.memory.visits.sum()) == 32


def test_dropout_acts_in_training_alone_and_remat_changes_nothing():
    def net(**changes):
        config = config_lib.default()
        config.update_from_flattened_dict(
            {
                "num_timesteps": 4,
                "data.name": "dead_leaves",
                "data.dead_leaves.size": 8,
                "data.dead_leaves.r_max": 8.0,
                "network.name": "unet",
                "network.unet.features": (8, 8),
                "network.unet.num_heads": 2,
                "train.batch_size": 4,
                **changes,
            }
        )
        return build.experiment(config, (8, 8, 1))

    plain, dropping, again = net(), net(**{"network.unet.dropout": 0.5}), net(**{"network.unet.remat": True})
    # Zero kernels would hide what comes before them.
    params = jax.tree.map(lambda a: a + 0.1, plain.init(jax.random.key(0)))
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    key, t = jax.random.key(2), jnp.full(4, 2, jnp.int32)
    without, out = (jax.jit(built.network)(params, x, t) for built in (dropping, plain))
    np.testing.assert_array_equal(without, out)
    assert jnp.abs(jax.jit(dropping.network)(params, x, t, key) - out).max() > 1e-3
    for built in (dropping, again):
        assert jax.tree.structure(built.init(jax.random.key(0))) == jax.tree.structure(params)
    found = [
        jax.jit(jax.value_and_grad(lambda p, b=built: b.loss(p, key, x, ())[0]))(params)
        for built in (plain, again, dropping)
    ]
    gradients = [gradient for _, gradient in found[:2]]
    # Biases before a normalisation have no gradient but rounding.
    rounding = 1e-6 * max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients[0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=rounding), *gradients)
    assert found[0][0] != found[2][0]
