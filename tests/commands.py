"""Commands called as functions: their exit code and what they print."""

import importlib
import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
# A swiss roll that is trained in seconds.
QUICK = [
    "--config.num_timesteps=20",
    "--config.data.swiss_roll.noise=0.1",
    "--config.schedule.geometric.beta_1=0.001",
    "--config.network.time_mlp.features=(16,)",
    "--config.train.batch_size=64",
    "--config.train.log_every=20",
    "--config.evaluate.num_examples=500",
]


class Done(NamedTuple):
    code: int
    out: str
    err: str


def run(command, *arguments):
    """Call train, evaluate or sample in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = importlib.import_module(f"dpm_jax.cli.{command}").main([str(argument) for argument in arguments])
    return Done(code, out.getvalue(), err.getvalue())


def refused(done, *words):
    """Exit code 2 and one line on stderr, naming what was wrong."""
    bars = ("training:", "evaluating:", "sampling:")
    lines = [line for line in done.err.splitlines() if line.strip() and not line.startswith(bars)]
    assert done.code == 2, done.err
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
