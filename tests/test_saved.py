"""Models saved in a small folder, and those that come with the package."""

import json

import jax
import numpy as np
import pytest

import dpm_jax
from dpm_jax.errors import UserError
from dpm_jax.training import storage
from tests.commands import refused, run

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    x = np.random.default_rng(0).normal([170, 65], [10, 8], (500, 2))
    return dpm_jax.fit(x, workdir=tmp_path_factory.mktemp("fit"), steps=20)


def test_a_saved_model_is_the_model(fitted, tmp_path):
    fitted.save(tmp_path / "small")
    again = dpm_jax.load(tmp_path / "small")
    assert again.step == fitted.step == 20
    jax.tree.map(np.testing.assert_array_equal, again.params, fitted.params)
    x = fitted.sample(KEY, 4)
    np.testing.assert_array_equal(again.sample(KEY, 4), x)
    np.testing.assert_array_equal(again.bound(KEY, x).value, fitted.bound(KEY, x).value)
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["config.json", "data.json", "params.npz"]
    assert dpm_jax.load(tmp_path / "small", checkpoint=20).step == 20
    with pytest.raises(UserError, match="holds the parameters of step 20 alone, got checkpoint 'best'"):
        dpm_jax.load(tmp_path / "small", checkpoint="best")
    with pytest.raises(UserError, match="holds a run already"):
        fitted.save(tmp_path / "small")


def test_half_of_the_space_is_enough(fitted, tmp_path):
    fitted.save(tmp_path / "whole")
    fitted.save(tmp_path / "half", half=True)
    size = [(tmp_path / name / "params.npz").stat().st_size for name in ("whole", "half")]
    assert size[1] < 0.6 * size[0]
    again = dpm_jax.load(tmp_path / "half")
    apart = jax.tree.map(lambda a, b: float(abs(a - b).max() / abs(b).max()), again.params, fitted.params)
    assert 0 < max(jax.tree.leaves(apart)) < 1e-3
    assert {leaf.dtype for leaf in jax.tree.leaves(again.params)} == {np.dtype("float32")}


def test_it_is_not_trained_on_but_can_be_started_from(fitted, tmp_path):
    fitted.save(tmp_path / "small")
    x = np.random.default_rng(1).normal([170, 65], [10, 8], (500, 2))
    with pytest.raises(UserError, match="without the optimizer's state; use --init_from="):
        dpm_jax.fit(x, workdir=tmp_path / "small", steps=20)
    refused(run("train", f"--workdir={tmp_path / 'small'}"), "small", "without the optimizer's state; use --init_from=")
    started = dpm_jax.fit(x, workdir=tmp_path / "new", steps=1, init_from=tmp_path / "small")
    apart = jax.tree.map(lambda a, b: float(abs(a - b).max()), started.params, fitted.params)
    assert max(jax.tree.leaves(apart)) < 0.1


def test_damage_is_one_line(fitted, tmp_path):
    fitted.save(tmp_path / "small")
    path = tmp_path / "small" / "params.npz"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no archive", whole[:200] + b"0000" + whole[204:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"params\.npz: missing or damaged: "):
            dpm_jax.load(tmp_path / "small")
    path.write_bytes(whole)
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    config["network"]["time_mlp"]["features"] = [3, 3]
    (tmp_path / "small" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"has shape .* and the config's has"):
        dpm_jax.load(tmp_path / "small")


EXAMPLES = ("heartbeat", "mnist", "swiss_roll")


def test_examples_are_small_and_named():
    folder = storage.folder("example:mnist").parent
    assert sorted(path.name for path in folder.iterdir()) == list(EXAMPLES)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 2 * 2**20
    with pytest.raises(UserError, match="example:roll: there is no such example; there are heartbeat, mnist"):
        dpm_jax.load("example:roll")


def test_the_roll_and_the_heartbeat_that_come_with_the_package_are_trained():
    roll, heartbeat = dpm_jax.load("example:swiss_roll"), dpm_jax.load("example:heartbeat")
    words = heartbeat.sample(KEY, 200)
    assert (words.reshape(200, 4, 5) == words[:, None, :5]).all(axis=(1, 2)).mean() > 0.97
    assert (words.sum(1) == 4).mean() > 0.97
    np.testing.assert_allclose(heartbeat.bound(KEY, words).value.mean(), -np.log(5), atol=0.06)
    k = roll.bound(KEY, roll.sample(KEY, 500))
    assert abs(k.value.mean() / np.log(2) - 2.45) < 0.4


def test_commands_work_on_a_copy_of_an_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in storage.folder("example:heartbeat").rglob("*")}
    done = run("sample", "--workdir=example:heartbeat", "--num_samples=20")
    assert done.code == 0, done.err
    assert (tmp_path / "runs" / "example_heartbeat" / "samples" / "samples.npz").exists()
    assert {path: path.stat().st_mtime_ns for path in storage.folder("example:heartbeat").rglob("*")} == before
