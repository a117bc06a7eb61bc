"""The paper's tables: what is printed of results, the best Gaussian model of patches, and the command."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from dpm_jax.data.sources import Source
from dpm_jax.errors import UserError
from dpm_jax.evaluation import parzen
from dpm_jax.evaluation.estimate import keyed
from dpm_jax.evaluation.images import ParzenReport
from examples.paper import __main__ as paper
from examples.paper import gaussian_patches, tables
from examples.paper.__main__ import main
from tests.real_data import TFDS_DIR, needs_dataset


def test_tables_show_what_there_is():
    evaluation = {"bound_bits": 2.41, "bound_stderr_bits": 0.012, "gain_bits": 6.5, "gain_stderr_bits": None}
    points = np.random.default_rng(0).uniform(size=(3, 20, 4))
    windows = ParzenReport(parzen.evaluate(*points), parzen.evaluate(*points[::-1]))
    results = {
        "swiss_roll": evaluation | {"gap_bits": 0.025, "gap_stderr_bits": 0.01, "minutes": 0.7},
        "mnist": evaluation | {"minutes": 14.0, "parzen": keyed(windows)},
        "bark": evaluation | {"minutes": 9.0, "gaussian_gain": {"mean": 0.9, "stderr": 0.01}},
    }
    lines = tables.text(results, "two cores").splitlines()
    assert "| Swiss roll, bits/point | 2.410 ± 0.012 | 6.500 |  | 0.025 ± 0.010 | 2.35 | 6.45 | 0.7 |" in lines
    for title, found in (("this library", windows.model), ("training images in the samples' place", windows.training)):
        bits = f"{found.bits.mean:.3f} ± {found.bits.stderr:.3f}"
        assert f"| MNIST, Parzen-window estimate, bits | {title} | {bits} |" in lines
    assert "| MNIST, Parzen-window estimate, bits | the paper | 317 ± 2.7 |" in lines
    assert any("16 x 16 patches" in line and "0.900 ± 0.010" in line for line in lines)
    assert not any("Dead leaves" in line for line in lines)
    assert lines[-1] == "On two cores."


def test_the_gaussian_model_of_patches_is_that_of_normal_patches():
    """Patches that are normal: the gain is half the log of the volume of the unit ball over theirs."""
    factor = np.tril(np.random.default_rng(0).normal(size=(6, 6))) * 0.2 + np.diag([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    scale = 1 / np.sqrt(np.trace(factor @ factor.T) / 6)
    factor = factor * scale
    units = SimpleNamespace(dequantize=lambda key, raw: raw)

    def draw(seed, num):
        return (np.random.default_rng(seed).normal(size=(num, 6)) @ factor.T).reshape(num, 2, 3, 1)

    source = Source(
        shape=(2, 3, 1),
        unit="bits/pixel",
        supply=None,
        held_out=lambda key, num: draw(1, num),
        num_held_out=None,
        standardization=units,
        train_examples=lambda num: draw(2, num),
    )
    found = gaussian_patches.gain(jax.random.key(0), source)
    # E |x|^2 / 2 is 3 under both, the variances being 1 in the mean.
    expected = -np.log(np.abs(np.diag(factor))).sum() / 6 / np.log(2)
    assert abs(found.mean - expected) < 4 * found.stderr
    assert found.stderr < 0.02


def test_systems_without_files_are_left_out_and_unknown_ones_refused(tmp_path, capsys):
    assert main(["--only=mnist,bark", f"--out={tmp_path}"]) == 0
    assert "mnist is left out: it needs --data_dir" in capsys.readouterr().out
    assert main(["--only=cifar", f"--out={tmp_path}"]) == 2
    assert "--only: must be of swiss_roll, heartbeat" in capsys.readouterr().err


def test_a_system_is_trained_once_and_shown(tmp_path, capfd):
    small = ["--config.num_timesteps=10", "--config.train.steps=20", "--config.train.batch_size=16"]
    small += ["--config.evaluate.num_examples=50", "--config.network.time_mlp.features=(8,)"]
    assert main(["--only=swiss_roll", f"--out={tmp_path}", *small]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    shown = capfd.readouterr().out
    assert (tmp_path / "tables.md").read_text() in shown
    assert f"{results['swiss_roll']['bound_bits']:.3f} ± " in shown
    assert main(["--only=swiss_roll", f"--out={tmp_path}", *small]) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == results
    # Minutes of the last call alone would be too few.
    assert results["swiss_roll"]["minutes"] > 0
    (tmp_path / "results.json").unlink()
    assert main(["--only=swiss_roll", f"--out={tmp_path}", *small]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["swiss_roll"]["minutes"] is None
    assert "| resumed |" in (tmp_path / "tables.md").read_text()
    with pytest.raises(SystemExit):
        main(["--colour=red"])


def test_tables_grow_by_one_system_at_a_time(tmp_path, monkeypatch):
    def result(system, _):
        if system.config == "heartbeat":
            raise UserError("no heartbeat today")
        return {"bound_bits": 2.41, "bound_stderr_bits": 0.012, "minutes": 0.7}

    monkeypatch.setattr(paper, "_result", result)
    assert main(["--only=swiss_roll,heartbeat", f"--out={tmp_path}"]) == 2
    assert "2.410 ± 0.012" in (tmp_path / "tables.md").read_text()


@needs_dataset("mnist")
def test_mnist_has_its_parzen_estimate_and_the_bound_of_the_training_run(tmp_path):
    small = ["--config.data.tfds.train_split=train[:256]", "--config.data.tfds.held_out_split=test[:64]"]
    small += ["--config.num_timesteps=5", "--config.network.unet.features=(8,16)", "--config.train.steps=4"]
    small += ["--config.evaluate.num_examples=16", "--config.evaluate.num_samples=4", "--parzen_samples=50"]
    assert main(["--only=mnist", f"--data_dir={TFDS_DIR}", f"--out={tmp_path}", *small]) == 0
    found = json.loads((tmp_path / "results.json").read_text())["mnist"]
    windows = found["parzen"]["model"]
    assert (
        f"| this library | {windows['bits']:.3f} ± {windows['stderr_bits']:.3f} |"
        in (tmp_path / "tables.md").read_text()
    )
    # evaluate.py has drawn other noise.
    after = json.loads((tmp_path / "mnist" / "evaluation.json").read_text())
    assert after["parzen"] == found["parzen"]
    assert after["bound_bits"] != found["bound_bits"]
