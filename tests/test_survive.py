"""Training that is killed, told to stop, locked out or out of disk: nothing is lost, and the rest is the same bits."""

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dpm_jax.errors import UserError
from dpm_jax.training import build, loop, metrics
from dpm_jax.training import profile as trace
from dpm_jax.training import workdir as workdirs
from dpm_jax.training.stop import StopSignal
from tests import survivor
from tests.commands import refused, run
from tests.test_mesh import port
from tests.test_training import small

ROOT = Path(__file__).parent.parent
# More of them say more, and take longer.
NUM_ENDINGS = int(os.environ.get("DPM_NUM_ENDINGS", "8"))
FLAGS = [
    f"--config.{name}={value}"
    for name, value in {
        "num_timesteps": 5,
        "network.time_mlp.features": "(16,)",
        "network.time_mlp.num_frequencies": 4,
        "train.steps": 400,
        "train.batch_size": 32,
        "train.log_every": 5,
        "train.checkpoint_every": 20,
        "evaluate.num_examples": 20,
    }.items()
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The environment of runs that start quickly: of all of them the first compiles."""
    folder = tmp_path_factory.mktemp("compiled")
    told = {"JAX_COMPILATION_CACHE_DIR": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return os.environ | told


def start(where, env, *flags, **how):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), f"--workdir={where}", *FLAGS, *flags],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        **how,
    )


def params_of(where):
    description = workdirs.read(where)
    step, params = loop.load_params(build.experiment(description.config, description.shape), where)
    return step, jax.device_get(params)


def losses(where):
    return {
        line["step"]: line["training_bits"] for line in metrics.read(where / "metrics.jsonl") if "training_bits" in line
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    where = tmp_path_factory.mktemp("runs") / "whole"
    printed, _ = (process := start(where, cache)).communicate()
    assert process.returncode == 0, printed
    return where


def wait_for(process, where, step):
    """Until a step has been logged."""
    while process.poll() is None and max(losses(where), default=0) < step:
        time.sleep(0.02)


def running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_killed_and_stopped_at_random_moments_it_ends_in_the_same_bits(cache, tmp_path):
    where, rng, codes = tmp_path / "killed", random.Random(0), []
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.survivor", "train", str(where)],
        env=cache,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    endings = [signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGTERM] * (NUM_ENDINGS // 4)
    for ending in [*endings, None]:
        process.stdin.write("\n")
        process.stdin.flush()
        pid = int(process.stdout.readline())
        if ending is not None:
            # Some before the first step, most in the middle of one or of a save.
            step = max(losses(where), default=0) + rng.choice([0, 0, 5, 10])
            while running(pid) and max(losses(where), default=0) < step:
                time.sleep(0.02)
            time.sleep(rng.random() * 0.3)
            if running(pid):
                os.kill(pid, ending)
        codes.append(int(process.stdout.readline()))
        # Told to stop, it has saved (3); before it listens, signals do as always; it may be finished (0).
        assert codes[-1] in (0, 3, 130, *([] if ending is None else [-ending])), codes
    process.communicate()
    assert codes[-1] == 0
    assert sum(code != 0 for code in codes) > NUM_ENDINGS // 2, "it was finished too soon for this to mean anything"
    expected = survivor.train(tmp_path / "whole")
    found = survivor.train(where)
    assert found.step == expected.step == survivor.STEPS
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    # Where it was told to stop there is one line more, of a part of the steps of the next.
    assert losses(tmp_path / "whole").keys() <= losses(where).keys()


@pytest.fixture
def own_interrupt():
    """Python's own handler of Ctrl-C, which a shell takes away from what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("own_interrupt")
def test_a_request_to_stop_is_confirmed_at_once_and_the_second_interrupts():
    said, began = [], time.monotonic()
    with StopSignal(lambda text: said.append((time.monotonic(), text))) as stop:
        assert not stop.asked()
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        # Python's own handlers wait until such a call returns, as they do for a compiler and for a device.
        hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000)
        ended = time.monotonic()
        assert stop.asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert len(said) == 1
    assert began < said[0][0] < ended
    assert said[0][1] == "stopping: what is under way is finished and saved first; Ctrl-C again leaves without that"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == -1


def test_a_second_interrupt_says_which_checkpoint_there_is(tmp_path, monkeypatch):
    built, source = small(train__log_every=5)

    def interrupt(stop):
        raise KeyboardInterrupt

    monkeypatch.setattr(StopSignal, "asked", interrupt)
    with pytest.raises(KeyboardInterrupt, match="there is no checkpoint"):
        loop.train(built, source, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_saves_and_says_so(number, whole, cache, tmp_path):
    where = tmp_path / "stopped"
    process = start(where, cache)
    wait_for(process, where, 30)
    process.send_signal(number)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    step, _ = params_of(where)
    assert 30 <= step < 400
    assert f"stopped: saved step {step} of 400" in printed
    assert "stopping: what is under way is finished and saved first" in printed
    assert not (where / "evaluation.json").exists()
    printed, _ = start(where, cache).communicate()
    assert f"resuming from step {step}" in printed
    jax.tree.map(np.testing.assert_array_equal, params_of(where), params_of(whole))


def test_a_second_process_is_refused(cache, tmp_path):
    where = tmp_path / "taken"
    first = start(where, cache, "--config.train.steps=1000000")
    wait_for(first, where, 5)
    second = start(where, cache)
    printed, _ = second.communicate()
    assert second.returncode == 2
    assert "another process is training here" in printed
    assert first.poll() is None
    first.kill()
    first.communicate()
    with workdirs.alone(where):
        pass


def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(cache, tmp_path):
    """Files can't grow beyond a limit: the first checkpoints fit, since it is set later."""
    where = tmp_path / "full"
    process = start(where, cache)
    wait_for(process, where, 50)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    before, params = params_of(where)
    limited = start(where, cache, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)))
    printed, _ = limited.communicate()
    assert limited.returncode == 2, printed
    last = printed.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "can't be written" in last or "cannot be written" in last
    after, again = params_of(where)
    assert after == before
    jax.tree.map(np.testing.assert_array_equal, params, again)


@pytest.mark.parametrize("taken", ["", "checkpoints", "metrics.jsonl"])
def test_what_stands_in_the_way_is_one_line(taken, tmp_path):
    """A file where a folder has to be, and the other way round: root can't write there, either."""
    where = tmp_path / "run"
    if taken == "metrics.jsonl":
        (where / taken).mkdir(parents=True)
    elif taken:
        where.mkdir()
        (where / taken).touch()
    else:
        where.touch()
    refused(run("train", f"--workdir={where}", *FLAGS), str(where))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_workdir_is_one_line(tmp_path):
    where = tmp_path / "closed"
    where.mkdir(mode=0o500)
    refused(run("train", f"--workdir={where}", *FLAGS), "cannot be written")


def test_a_newer_format_is_refused_by_name(whole, tmp_path):
    description = json.loads((whole / "data.json").read_text())
    for name in ("config.json", "data.json"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    (tmp_path / "data.json").write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(UserError, match="format 99, of a newer dpm_jax"):
        workdirs.read(tmp_path)


def test_a_profile_is_written(cache, tmp_path):
    where = tmp_path / "profiled"
    printed, _ = start(where, cache, "--config.train.steps=20", "--profile_steps=6:9").communicate()
    assert list((where / "profile").rglob("*.xplane.pb")), printed
    # The trace's ends are ends of dispatches, and change nothing else.
    assert sorted(losses(where)) == [5, 6, 9, 10, 15, 20]


@pytest.mark.parametrize("text", ["10", "10:", "a:b", "5:5", "7:3", "-1:4"])
def test_profile_steps_that_are_none_are_refused(text):
    with pytest.raises(UserError, match="--profile_steps: must be FIRST:LAST"):
        trace.steps(text)


def test_a_dry_run_says_what_a_step_costs_and_writes_nothing(tmp_path):
    done = run("train", f"--workdir={tmp_path / 'dry'}", *FLAGS, "--dry_run")
    assert done.code == 0, done.err
    assert "a step of 32 examples on 1 x cpu" in done.out
    assert "FLOP in matrix products" in done.out
    assert "H100" in done.out
    assert not (tmp_path / "dry").exists()


def together(cache, command, *flags, processes=2, last=()):
    """The same command as several processes of two devices each; the last of them has more flags."""
    env = cache | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    told = [f"--coordinator_address=127.0.0.1:{port()}", f"--num_processes={processes}"]
    return [
        subprocess.Popen(
            [
                sys.executable,
                str(ROOT / f"{command}.py"),
                *flags,
                *told,
                f"--process_id={i}",
                *(last if i == processes - 1 else ()),
            ],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        for i in range(processes)
    ]


def test_a_notice_to_one_process_stops_all_at_the_same_step(whole, cache, tmp_path):
    where = tmp_path / "pod"
    pair = together(cache, "train", f"--workdir={where}", *FLAGS)
    wait_for(pair[0], where, 20)
    pair[1].send_signal(signal.SIGTERM)
    printed = [process.communicate(timeout=300)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], printed
    step, _ = params_of(where)
    assert 20 <= step < 400
    assert f"stopped: saved step {step} of 400" in printed[0]
    out = tmp_path / "drawn"
    for command, flags in (("evaluate", ["--ais_k=0"]), ("sample", ["--num_samples=30", f"--out={out}"])):
        pair = together(cache, command, f"--workdir={where}", *flags)
        printed = [process.communicate(timeout=300)[0] for process in pair]
        assert [process.returncode for process in pair] == [0, 0], printed
        assert "wrote" in printed[0]
        assert "wrote" not in printed[1]
    report = json.loads((where / "evaluation.json").read_text())
    assert np.isfinite(report["bound_bits"])
    with np.load(out / "samples.npz") as drawn:
        assert drawn["samples"].shape == (30, 2)


def test_what_one_process_fails_at_ends_all(whole, cache):
    pair = together(cache, "evaluate", f"--workdir={whole}", last=["--num_examples=1"])
    printed = [process.communicate(timeout=60)[0] for process in pair]
    assert [process.returncode for process in pair] == [2, 2], printed
    for text in printed:
        assert "error: --num_examples: must be at least 2, got 1" in text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--num_processes=2"], "--coordinator_address: missing"),
        (["--coordinator_address=127.0.0.1:1", "--process_id=0"], "--num_processes: missing"),
        (["--config.mesh.fsdp=3"], "config.mesh: data"),
        (["--config.mesh.data=0"], "config.mesh: data 0"),
        (["--config.train.accumulate=5"], "config.train.accumulate: must divide the batch of 32, got 5"),
        (["--profile_steps=9"], "--profile_steps: must be FIRST:LAST"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(flags, words, tmp_path):
    refused(run("train", f"--workdir={tmp_path / 'new'}", *FLAGS, *flags), words)
