"""A save that fails, or ends with the machine, at any operation: there is a whole checkpoint, the last or the new one.

Python tells of each operation on files before it is done (PEP 578), whoever asks for it: Orbax too. Only its arrays are
written elsewhere, in C++, into a folder that gets its name last.
"""

import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.thread import _threads_queues as pool_threads
from pathlib import Path

import pytest

from dpm_jax.errors import UserError
from dpm_jax.training.checkpoints import Checkpoints
from tests.survivor import state, step_of
from tests.test_survive import ROOT, running

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="files are known by their descriptors")
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
# In how many tests all operations of a save are gone through, so that they can be run side by side.
SHARES = 4


class Disk:
    """Counts the operations that change a folder, and fails at one of them, or from there on.

    Attributes:
      done: how many there were.
      durable: files that a power cut leaves as they are: those of before, and those that were synced.
    """

    watched = None

    def __init__(self, folder, fails=None, for_good=False):
        self._folder, self._fails, self._for_good, self._lock = str(folder), fails, for_good, threading.Lock()
        self.done, self.durable = 0, {str(path) for path in folder.rglob("*")}

    def __enter__(self):
        Disk.watched = self

    def __exit__(self, *_):
        Disk.watched = None

    def before(self, event, arguments):
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR) or isinstance(path, int):
                return
        elif event not in CHANGES:
            return
        path = os.fsdecode(arguments[0])
        # Relative ones are of a tree that is being removed.
        if os.path.isabs(path) and not path.startswith(self._folder):
            return
        self._count()
        if event == "open":
            self.durable.discard(path)
        elif event == "os.rename":
            target = os.fsdecode(arguments[1])
            self.durable = {target + p[len(path) :] if p.startswith(path) else p for p in self.durable}

    def sync(self, path):
        self._count()
        self.durable.add(path)

    def _count(self):
        with self._lock:
            number, self.done = self.done, self.done + 1
        if self._fails is not None and (number == self._fails or (self._for_good and number > self._fails)):
            raise OSError(errno.EIO, "Input/output error")

    def lose_what_was_not_synced(self):
        for path in Path(self._folder).rglob("*"):
            if path.is_file() and str(path) not in self.durable:
                os.truncate(path, 0)


def hook(event, arguments):
    if Disk.watched is not None:
        Disk.watched.before(event, arguments)


@pytest.fixture(scope="module", autouse=True)
def _told():
    """Hooks are for good; `os.fsync` has none."""
    sys.addaudithook(hook)
    sync = os.fsync

    def fsync(descriptor):
        if Disk.watched is not None:
            Disk.watched.sync(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        yield


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A workdir with the checkpoints 10 and 20."""
    where = tmp_path_factory.mktemp("saved") / "run"
    with Checkpoints(where) as checkpoints:
        for step, loss in ((10, 3.0), (20, 2.0)):
            checkpoints.save(step, state(step), loss)
    return where


def save(where, disk):
    """Save 30, which removes 10; return what went wrong."""
    try:
        with Checkpoints(where) as checkpoints, disk:
            checkpoints.save(30, state(30), 1.0)
            checkpoints.wait()
    except UserError as error:
        return error


def end(threads):
    """Whether these end within seconds: a process waits for them, but tells those of pools to end."""
    deadline = time.monotonic() + 5
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    return not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("for_good", [False, True], ids=["fault", "cut"])
def test_a_save_that_fails_at_any_operation_leaves_a_whole_checkpoint(share, for_good, before, tmp_path):
    for number in itertools.count(share, SHARES):
        where, known = tmp_path / str(number), set(threading.enumerate())
        shutil.copytree(before, where)
        disk = Disk(where, number, for_good)
        error = save(where, disk)
        if disk.done <= number:
            break
        assert end(set(threading.enumerate()) - known - set(pool_threads)), (number, error)
        if for_good:
            disk.lose_what_was_not_synced()
        with Checkpoints(where, report=pytest.fail) as checkpoints:
            found = step_of(checkpoints.restore(state(0)))
            # Unless told otherwise, it is saved.
            assert found in ((20, 30) if error or for_good else (30,)), (number, error)
            assert step_of(checkpoints.restore(state(0), "best")) in (20, 30)
            # The run resumes from there.
            checkpoints.save(found + 10, state(found + 10), 1.0)
            checkpoints.wait()
            assert step_of(checkpoints.restore(state(0))) == found + 10
    assert (error, number > 30) == (None, True)


def saved(where):
    return [int(path.name) for path in (where / "checkpoints").glob("*") if path.name.isdigit()]


def test_killed_at_any_moment_of_a_save_it_goes_on_from_a_whole_checkpoint(tmp_path):
    rng, reached = random.Random(0), 0
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.survivor", "save", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    for _ in range(3):
        process.stdin.write("\n")
        process.stdin.flush()
        pid = int(process.stdout.readline())
        # It saves without end, unless it has failed.
        while max(saved(tmp_path), default=0) <= reached and running(pid):
            time.sleep(0.01)
        time.sleep(0.1 * rng.random())
        if running(pid):
            os.kill(pid, signal.SIGKILL)
        assert int(process.stdout.readline()) == -signal.SIGKILL
        with Checkpoints(tmp_path, read_only=True, report=pytest.fail) as checkpoints:
            found = step_of(checkpoints.restore(state(0)))
        assert found == max(saved(tmp_path)) > reached
        reached = found
    process.communicate()
