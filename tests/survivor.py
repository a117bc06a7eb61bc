"""A process that trains in children which are killed: what they import is imported once.

For each line on stdin it starts a child that trains in the folder named first, and prints its process id, and its exit
code when it has ended: 0 finished, 3 told to stop, 130 interrupted, -N ended by signal N.
"""

import os
import sys
from pathlib import Path

from dpm_jax.training import loop
from tests.test_training import small

STEPS = 240


def train(where):
    built, source = small(train__steps=STEPS, train__log_every=5, train__checkpoint_every=20)
    return loop.train(built, source, where, report=lambda text: None)


def child(where):
    try:
        return 3 if train(where).stopped else 0
    except KeyboardInterrupt:
        return 130


def main(where):
    for _ in sys.stdin:
        # No device is in use yet, so nothing is lost in the child.
        pid = os.fork()
        if pid == 0:
            os._exit(child(where))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
