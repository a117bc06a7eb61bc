"""A process that trains, or saves, in children which are killed: what they import is imported once.

    python -m tests.survivor train|save FOLDER

For each line on stdin it starts a child that goes on in the folder, and prints its process id, and its exit code when
it has ended: 0 finished, 3 told to stop, 130 interrupted, 1 failed, -N ended by signal N.
"""

import os
import sys
import traceback
from pathlib import Path

import numpy as np

from dpm_jax.training import loop
from dpm_jax.training.checkpoints import Checkpoints
from tests.test_training import small

STEPS = 240


def train(where):
    built, source = small(train__steps=STEPS, train__log_every=5, train__checkpoint_every=20)
    return loop.train(built, source, where, report=lambda text: None)


def state(step):
    """Return a state that says of every number in it at which step it was saved."""
    return {"a": np.full(30_000, step, np.float32), "b": np.arange(4, dtype=np.int32) + step}


def step_of(found):
    """Return the step at which a state was saved, bit for bit.

    Raises:
      ValueError: if it is of none.
    """
    step = int(found["b"][0])
    if not all(np.array_equal(found[name], value) for name, value in state(step).items()):
        raise ValueError(f"no state of step {step}")
    return step


def save(where):
    """Save one state after another."""
    with Checkpoints(where, report=lambda text: None) as checkpoints:
        step = 0 if checkpoints.latest() is None else step_of(checkpoints.restore(state(0)))
        while True:
            step += 1
            checkpoints.save(step, state(step), 0.0)


def child(what, where):
    try:
        if what == "save":
            save(where)
        return 3 if train(where).stopped else 0
    except KeyboardInterrupt:
        return 130
    except Exception:
        traceback.print_exc()
        return 1


def main(what, where):
    for _ in sys.stdin:
        # No device is in use yet, so nothing is lost in the child.
        pid = os.fork()
        if pid == 0:
            os._exit(child(what, where))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
