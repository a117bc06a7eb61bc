"""The three commands as a user runs them: train, kill, resume, evaluate, sample; and every way to be told off."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest
from absl import flags

from dpm_jax.cli import arguments as cli
from dpm_jax.training import workdir as workdir_lib
from tests import strict_json
from tests.commands import QUICK, ROOT, refused, run


def saved_steps(workdir):
    return [int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdigit()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir trained through a kill: SIGKILL after a checkpoint, then the same command again."""
    workdir = tmp_path_factory.mktemp("runs") / "roll"
    command = [
        *(sys.executable, str(ROOT / "train.py"), f"--workdir={workdir}", *QUICK),
        *("--config.train.steps=60000", "--config.train.checkpoint_every=200"),
    ]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 120
    # What is still being written has a longer name.
    while not saved_steps(workdir) and time.monotonic() < deadline:
        time.sleep(0.2)
    child.send_signal(signal.SIGKILL)
    child.wait()
    saved = max(saved_steps(workdir))
    last = saved + 300
    done = run(
        "train",
        f"--workdir={workdir}",
        *QUICK,
        f"--config.train.steps={last}",
        "--config.train.checkpoint_every=200",
    )
    assert done.code == 0, done.err
    assert f"resuming from step {saved} " in done.out
    return workdir, last


def test_training_writes_all_that_it_promises(trained):
    workdir, last = trained
    for name in ("config.json", "data.json", "metrics.jsonl", "evaluation.json", "figure.png", "evaluation.png"):
        assert (workdir / name).stat().st_size > 0, name
    assert list((workdir / "tensorboard").iterdir())
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "training_bits" in line]
    assert steps == sorted(set(steps))
    assert steps[-1] == last
    assert {"training_bits", "grad_norm", "learning_rate", "steps_per_second"} <= lines[0].keys()
    assert json.loads((workdir / "config.json").read_text())["num_timesteps"] == 20


def test_evaluate(trained):
    workdir, last = trained
    assert not (workdir / "likelihood.png").exists()  # train.py spends no time on it
    done = run("evaluate", f"--workdir={workdir}", "--num_examples=300", "--ais_k=25", "--ais_examples=30")
    assert done.code == 0, done.err
    assert {"config.json", "data.json", "evaluation.json", "metrics.jsonl", "checkpoints/losses.json"} <= set(
        strict_json.files(workdir)
    )
    result = json.loads((workdir / "evaluation.json").read_text())
    assert {
        *("bound_bits", "bound_stderr_bits", "null_bits", "gain_bits", "limit_bits", "gap_bits"),
        *("gap_stderr_bits", "unit", "num_examples", "num_timesteps", "per_step_kl_bits"),
    } <= result.keys()
    assert (result["num_examples"], result["num_timesteps"], result["step"]) == (300, 20, last)
    assert len(result["per_step_kl_bits"]) == 21
    assert f"{result['bound_bits']:.4f}" in done.out
    assert result["limit_bits"] == pytest.approx(-2.40, abs=0.01)
    assert (result["ais_k"], result["ais_examples"]) == ([1, 10, 25], 30)
    for name in ("bits", "stderr_bits", "gain_bits", "gain_stderr_bits", "gap_bits", "gap_stderr_bits", "ess"):
        assert len(result[f"ais_{name}"]) == 3, name
    assert result["ais_bits"] == sorted(result["ais_bits"])
    assert result["ais_ess"][0] == pytest.approx(1)
    assert {"lower_bits", "lower_stderr_bits", "upper_bits", "upper_stderr_bits"} <= result["sandwich"].keys()
    assert result["sandwich"]["width_bits"][0] > result["sandwich"]["width_bits"][2]
    entropies = result["entropy_bounds_bits"]
    assert entropies["lower"][:2] == [None, None]  # none before the first step; -infinity at it
    assert entropies["true"] is None
    for low, high in zip(entropies["lower"][2:], entropies["upper"][2:], strict=True):
        assert low < high
    assert len(entropies["model"]) == 21
    assert result["entropy_production_bits"] == result["gap_bits"]
    assert result["exact_bits"] is None
    assert (workdir / "likelihood.png").read_bytes().startswith(b"\x89PNG")
    assert f"{result['ais_bits'][2]:.4f}" in done.out
    done = run("evaluate", f"--workdir={workdir}", "--num_examples=300", "--ais_k=0")
    assert done.code == 0, done.err
    again = json.loads((workdir / "evaluation.json").read_text())
    assert again == {name: value for name, value in result.items() if name in again}
    assert not {"ais_bits", "sandwich", "entropy_bounds_bits"} & again.keys()


def test_sample(trained, tmp_path):
    workdir, _ = trained
    for chunk, name in ((10_000, "whole"), (13, "cut")):
        done = run(
            *("sample", f"--workdir={workdir}", "--num_samples=50", f"--out={tmp_path / name}"),
            *(f"--chunk_size={chunk}", "--gif" if name == "whole" else "--nogif"),
        )
        assert done.code == 0, done.err
    whole, cut = (np.load(tmp_path / name / "samples.npz")["samples"] for name in ("whole", "cut"))
    assert whole.shape == (50, 2)
    assert whole.dtype == np.float64
    np.testing.assert_allclose(whole, cut, rtol=1e-3, atol=1e-4)
    assert (tmp_path / "whole" / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "whole" / "trajectory.gif").read_bytes().startswith(b"GIF8")


def test_a_workdir_can_be_moved_and_used_from_anywhere(trained, tmp_path):
    workdir, _ = trained
    shutil.copytree(workdir, tmp_path / "moved")
    command = [sys.executable, str(ROOT / "sample.py"), "--workdir=moved", "--num_samples=3", "--out=drawn"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "drawn" / "samples.npz")["samples"].shape == (3, 2)


def test_bits_end_to_end(tmp_path):
    done = run(
        *("train", "--config=heartbeat", f"--workdir={tmp_path / 'run'}", "--config.num_timesteps=30"),
        *("--config.train.steps=200", "--config.train.batch_size=64", "--config.evaluate.num_examples=200"),
    )
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert result["limit_bits"] == pytest.approx(-np.log2(5))
    assert result["null_bits"] == pytest.approx(-14.438, abs=0.01)
    assert result["bound_bits"] < result["ceiling_bits"] + 4 * result["bound_stderr_bits"]
    done = run("sample", f"--workdir={tmp_path / 'run'}", "--num_samples=20", f"--out={tmp_path}")
    assert done.code == 0, done.err
    assert set(np.unique(np.load(tmp_path / "samples.npz")["samples"])) <= {0.0, 1.0}


def test_own_data_come_back_in_their_own_units(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "mine.npy", rng.normal([100, -5, 3], [20, 0.1, 1], (2000, 3)))
    given = [*QUICK, "--config.data.name=file", "--config.data.file.path=mine.npy", "--config.train.steps=200"]
    done = run("train", f"--workdir={tmp_path / 'run'}", f"--data_dir={tmp_path}", *given)
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["limit_bits"] is None
    os.remove(tmp_path / "mine.npy")
    done = run("sample", f"--workdir={tmp_path / 'run'}", "--num_samples=500", f"--out={tmp_path / 'out'}")
    assert done.code == 0, done.err
    samples = np.load(tmp_path / "out" / "samples.npz")["samples"]
    np.testing.assert_allclose((samples.mean(0) - [100, -5, 3]) / [20, 0.1, 1], 0, atol=0.3)
    np.testing.assert_allclose(samples.std(0) / [20, 0.1, 1], 1, atol=0.3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--config.train.stepz=3"], ["config.train.stepz", "did you mean config.train.steps"]),
        (["--config.num_timesteps=0"], ["config.num_timesteps", "got 0"]),
        (["--config.train.steps=many"], ["config.train.steps"]),
        (["--config.schedule.geometric.beta_1=2"], ["beta_1 must lie in (0, 1), got 2"]),
        (["--config=nowhere.py"], ["there is no file or config 'nowhere.py'", "heartbeat, heartbeat_paper, mnist"]),
        (["--config=mnits"], ["there is no file or config 'mnits'; did you mean --config=mnist?"]),
        (["--config=configs/mnist.py"], ["did you mean --config=mnist?"]),
        (["--wordkir=x"], ["wordkir"]),
        (["stray"], ["stray"]),
        (["--config.data.name=file", "--config.data.file.path=nowhere.npy"], ["nowhere.npy"]),
    ],
)
def test_train_refuses(given, words, tmp_path):
    refused(run("train", f"--workdir={tmp_path / 'run'}", *given), *words)
    assert not (tmp_path / "run").exists()


def test_train_refuses_data_with_nan_or_of_a_wrong_shape(tmp_path):
    np.save(tmp_path / "nan.npy", np.array([[1.0, np.nan], [0.0, 1.0], [2.0, 2.0]]))
    np.save(tmp_path / "flat.npy", np.zeros(7))
    for name, words in (("nan.npy", "NaN or infinity"), ("flat.npy", "shape (7,)")):
        given = ["--config.data.name=file", f"--config.data.file.path={tmp_path / name}"]
        refused(run("train", f"--workdir={tmp_path / 'run'}", *given), name, words)


def test_a_workdir_of_another_config_is_left_alone(trained):
    workdir, _ = trained
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    done = run("train", f"--workdir={workdir}", *QUICK, "--config.num_timesteps=21")
    refused(done, "belongs to another config", "num_timesteps: 20, now 21")
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("damage", ["flip", "cut", "other model", "none"])
def test_missing_and_damaged_checkpoints_are_one_line(damage, trained, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(trained[0], workdir)
    if damage == "none":
        shutil.rmtree(workdir / "checkpoints")
    elif damage == "other model":
        config = json.loads((workdir / "config.json").read_text())
        config["network"]["time_mlp"]["features"] = [17]
        (workdir / "config.json").write_text(json.dumps(config))
    else:
        for file in workdir.glob("checkpoints/*/default/**/d/*"):
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 0xFF
            file.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    words = {"none": "no checkpoint", "other model": "of another model"}
    refused(run("sample", f"--workdir={workdir}"), words.get(damage, "damaged"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[]"),
        ("config.json", '{"network": 3}'),
        ("data.json", "3"),
        ("data.json", '{"shape": [-2], "mean": 0, "scale": 1}'),
        ("data.json", '{"shape": [2], "mean": [0, 0, 0], "scale": 1}'),
    ],
)
def test_a_workdir_with_damaged_descriptions_is_refused(name, content, trained, tmp_path):
    for file in ("config.json", "data.json"):
        shutil.copy(trained[0] / file, tmp_path)
    (tmp_path / name).write_text(content)
    refused(run("sample", f"--workdir={tmp_path}"), name.removesuffix(".json"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("def get_config(:", "mine.py:1: SyntaxError"),
        ("x = 1", "mine.py: defines no function get_config"),
        ("def get_config():\n    return {}", "mine.py: get_config must return a ConfigDict, got dict"),
        ("import no_such_module", "mine.py:1: ModuleNotFoundError"),
        ("\n1 / 0", "mine.py:2: ZeroDivisionError"),
        ("def get_config():\n    return int('x')", "mine.py:2: ValueError: invalid literal"),
        ("def get_config():\n    open('/nowhere')", "mine.py:2: FileNotFoundError"),
    ],
)
def test_a_config_file_that_fails_is_one_line_with_its_place(content, words, tmp_path):
    (tmp_path / "mine.py").write_text(content)
    given = [f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}"]
    refused(run("train", *given), words)


def test_debug_shows_the_traceback(tmp_path):
    (tmp_path / "mine.py").write_text("1 / 0")
    done = run("train", f"--config={tmp_path / 'mine.py'}", "--debug")
    assert done.code == 2
    assert "Traceback (most recent call last)" in done.err
    assert "ZeroDivisionError" in done.err
    assert done.err.splitlines()[-1].startswith("error: --config: ")


@pytest.mark.parametrize("command", ["train", "evaluate", "sample"])
def test_help_says_what_the_flags_are(command):
    done = run(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"python {command}.py --" in done.out
    assert "--workdir: " in done.out
    assert ("--config: " in done.out) == (command == "train")
    assert run(command, "-h") == done


@pytest.fixture
def call():
    """Call a command with two flags and a config, and return what they were."""

    def define(flag):
        flag.config("swiss_roll")
        flag.integer("seed", 3, "Seed.")

    def call(*arguments):
        found = []
        assert cli.run(None, define, found.append, arguments) == 0
        config, name = found[0].config
        return name, config.num_timesteps, config.network.time_mlp.features, found[0].seed

    return call


def test_calls_share_no_flags(call):
    before = sorted(flags.FLAGS)
    first = call("--seed=5", "--config.num_timesteps=7", "--config.network.time_mlp.features=(3,)")
    assert first == ("swiss_roll", 7, (3,), 5)
    assert call("--config.num_timesteps=8", "--config", "heartbeat")[:2] == ("heartbeat", 8)
    assert call() == ("swiss_roll", 200, (64, 64, 64), 3)
    assert sorted(flags.FLAGS) == before


def test_a_config_is_read_anew_and_may_take_an_option(call, tmp_path):
    mine = tmp_path / "mine.py"
    lines = (
        "from dpm_jax.configs import heartbeat, swiss_roll",
        "get_config = lambda name: globals()[name].get_config()",
    )
    mine.write_text("\n".join(lines))
    assert call(f"--config={mine}:heartbeat")[:2] == ("mine", 1000)
    assert call(f"--config={mine}:swiss_roll")[:2] == ("mine", 200)
    mine.write_text("from dpm_jax.configs.swiss_roll_paper import get_config")
    assert call("--config.seed=4", f"--config={mine}")[:2] == ("mine", 40)
    (tmp_path / "all.flags").write_text(f"--config={mine}\n--config.num_timesteps=9\n--seed=8\n")
    assert call(f"--flagfile={tmp_path / 'all.flags'}") == ("mine", 9, (64, 64, 64), 8)


def test_interrupts_are_an_exit_code(capsys):
    def act(given):
        raise KeyboardInterrupt(*([] if given.seed else ["there is no checkpoint"]))

    for arguments, said in (["--seed=1"], "interrupted\n"), (["--seed=0"], "interrupted; there is no checkpoint\n"):
        assert cli.run(None, lambda flag: flag.integer("seed", 0, "Seed."), act, arguments) == 130
        assert capsys.readouterr().err == said


def test_the_package_installs_the_commands():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == {"dpm-train", "dpm-evaluate", "dpm-sample"}
    for name, path in scripts.items():
        module, function = path.split(":")
        assert (module, function) == ("dpm_jax.cli", f"{name.removeprefix('dpm-')}_command")
        assert callable(getattr(importlib.import_module(module), function))


def test_a_reader_that_leaves_early_ends_it_quietly(trained, tmp_path):
    script = f"'{sys.executable}' evaluate.py --workdir='{trained[0]}' --num_examples=20 --ais_k=0 | true"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert [line for line in done.stderr.splitlines() if not line.startswith("evaluating:") and line.strip()] == []


def test_a_finished_run_that_is_run_again_writes_nothing(tmp_path):
    given = [f"--workdir={tmp_path}", *QUICK, "--config.train.steps=40", "--config.train.checkpoint_every=20"]
    assert run("train", *given).code == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    done = run("train", *given, "--config.network.unet.remat=True", "--config.optimizer.sgd.momentum=0.5")
    assert done.code == 0, done.err
    assert "step 40 is trained and evaluated already" in done.out
    (tmp_path / "config.json").write_bytes(before[tmp_path / "config.json"])
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    # Results of an older checkpoint are in a separate folder, and are moved there when a newer one is evaluated.
    done = run("evaluate", f"--workdir={tmp_path}", "--checkpoint=20", "--ais_k=0", "--num_examples=20")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "step_20" / "evaluation.json").read_text())["step"] == 20
    assert {p: p.read_bytes() for p in before} == before


def test_results_of_two_checkpoints_do_not_mix(tmp_path):
    for name in ("evaluation.json", "likelihood.png", "respacing.npz", "metrics.jsonl"):
        (tmp_path / name).write_text('{"step": 40}')
    assert workdir_lib.results(tmp_path, 40) == tmp_path
    assert workdir_lib.results(tmp_path, 20, newest=False) == tmp_path / "step_20"
    assert len(list(tmp_path.glob("*.*"))) == 4
    assert workdir_lib.results(tmp_path, 60) == tmp_path
    assert [p.name for p in tmp_path.glob("*.*")] == ["metrics.jsonl"]
    assert {p.name for p in (tmp_path / "step_40").iterdir()} == {"evaluation.json", "likelihood.png", "respacing.npz"}


@pytest.mark.parametrize("script", ["evaluate", "sample"])
def test_a_folder_that_is_no_workdir_is_refused(script, tmp_path):
    refused(run(script, f"--workdir={tmp_path}"), "not a workdir")


def test_a_loss_that_is_not_finite_is_one_line(tmp_path):
    given = [*QUICK, "--config.optimizer.learning_rate=1e30", "--config.optimizer.warmup_steps=0"]
    done = run("train", f"--workdir={tmp_path / 'run'}", *given, "--config.train.steps=500")
    refused(done, "not finite at step", "there is no checkpoint")


@pytest.mark.parametrize(
    ("script", "flag"),
    [
        ("evaluate", "--num_examples=1"),
        ("evaluate", "--ais_k=-1"),
        ("evaluate", "--ais_k=many"),
        ("evaluate", "--ais_examples=1"),
        ("sample", "--num_samples=0"),
    ],
)
def test_numbers_out_of_range_are_refused(script, flag, trained):
    refused(run(script, f"--workdir={trained[0]}", flag), flag.split("=")[0].lstrip("-"))


def test_a_run_whose_output_is_a_file_is_quiet(tmp_path):
    """No warning of a library, no bar of a thousand lines; a new process, as a user starts it."""
    arguments = [*QUICK, "--config.train.steps=200", f"--workdir={tmp_path / 'run'}"]
    # What this process, or JAX in it, has set of TPUs is not what a user has.
    hidden = ("JAX_PLATFORMS", "TPU_", "ALLOW_MULTIPLE_LIBTPU")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", *arguments], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) <= 4, done.stderr
    assert all(line.startswith(("training:", "evaluating:", "sampling:")) for line in lines), done.stderr
    assert any(line.startswith("training: 100%") for line in lines), done.stderr
    assert "\r" not in done.stderr
