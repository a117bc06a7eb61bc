"""Train the paper's systems, and print its tables 1 and 2 beside what they reach here.

  python -m examples.paper --data_dir=FOLDER --photograph=bark.png
  python -m examples.paper --only=swiss_roll,heartbeat

Systems are trained one after the other by train.py, each in its folder of --out, and tables.md and results.json grow by
one system at a time; the same command again resumes, and leaves finished systems as they are.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from dpm_jax.cli import arguments as cli
from dpm_jax.cli import config_file
from dpm_jax.errors import UserError
from dpm_jax.evaluation.estimate import keyed
from dpm_jax.training import build
from dpm_jax.training.storage import write_json
from examples.command import exit_code
from examples.paper import gaussian_patches, tables
from examples.paper.systems import SYSTEMS, System

_NAMES = tuple(system.config for system in SYSTEMS)
# Side of the patches of the Gaussian model of bark.
_PATCH = 16


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--only", default=",".join(_NAMES), help="Systems, separated by commas (all of them).")
    parser.add_argument("--data_dir", help="Folder with the TFDS datasets mnist and cifar10 (leave those systems out).")
    parser.add_argument("--photograph", type=Path, help="Grey photograph of bark (leave that system out).")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="Folder of everything (runs/paper).")
    parser.add_argument("--parzen_samples", type=int, default=10_000, help="Samples of the Parzen estimate (10000).")
    parser.add_argument("settings", nargs="*", metavar="--config.FIELD=VALUE", help="Settings of every config (none).")
    found, settings = parser.parse_known_args(given)
    if strange := [setting for setting in settings if not setting.startswith("--config.")]:
        parser.error(f"unknown arguments: {' '.join(strange)}")
    found.settings += settings
    return found


def _chosen(given: argparse.Namespace) -> list[System]:
    """Return the systems that are asked for, and whose files are given."""
    names = given.only.split(",")
    if unknown := sorted(set(names) - set(_NAMES)):
        raise UserError(f"--only: must be of {', '.join(_NAMES)}, got {', '.join(unknown)}")
    chosen = [system for system in SYSTEMS if system.config in names]
    for system in chosen:
        if system.files and getattr(given, system.files) is None:
            print(f"{system.config} is left out: it needs --{system.files}")
    return [system for system in chosen if not system.files or getattr(given, system.files) is not None]


def _data(system: System, given: argparse.Namespace) -> list[str]:
    """Return the flags that say where a system's data are."""
    if system.files == "photograph":
        return [f"--data_dir={given.photograph.parent}", f"--config.data.folder.path={given.photograph.name}"]
    return [f"--data_dir={given.data_dir}"] if system.files else []


def _command(name: str, *arguments: str) -> float:
    """Run a command in a new process, and return its wall time in seconds."""
    began = time.monotonic()
    program = f"import sys; from dpm_jax.cli import {name}; sys.exit({name}.main(sys.argv[1:]))"
    if subprocess.run([sys.executable, "-c", program, *arguments], check=False).returncode:
        raise UserError(f"{name}.py {' '.join(arguments)}: failed")
    return time.monotonic() - began


def _result(system: System, given: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate a system, and return its evaluation with the minutes that it took, None where it resumed."""
    where, data = given.out / system.config, _data(system, given)
    resumed = where.exists()
    seconds = _command("train", f"--config={system.config}", f"--workdir={where}", *data, *given.settings)
    path = where / "evaluation.json"
    found: dict[str, Any] = json.loads(path.read_text())
    if system.parzen:
        folder = [f"--data_dir={given.data_dir}", f"--parzen_samples={given.parzen_samples}", "--ais_k=0"]
        _command("evaluate", f"--workdir={where}", "--parzen", *folder)
        # Its K is that of other examples.
        found["parzen"] = json.loads(path.read_text())["parzen"]
    if system.files == "photograph":
        config = config_file.read(system.config).config
        config.data.folder.path, config.data.crop = given.photograph.name, _PATCH
        source = build.source(config, str(given.photograph.parent))
        found |= {"gaussian_gain": keyed(gaussian_patches.gain(jax.random.key(0), source))}
    return found | {"minutes": None if resumed else seconds / 60}


def _run(given: argparse.Namespace) -> None:
    """Train what has no result yet, and print and write the tables."""
    cli.set_up()
    chosen, path = _chosen(given), given.out / "results.json"
    given.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    machine = f"{jax.device_count()} x {jax.devices()[0].device_kind}"

    def write() -> str:
        text = tables.text(results, f"{machine}, Python {platform.python_version()}, jax {jax.__version__}")
        (given.out / "tables.md").write_text(text)
        return text

    for system in chosen:
        if system.config not in results:
            results[system.config] = _result(system, given)
            write_json(path, results, indent=1)
            write()
    print(write())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code; a `UserError` is one line on stderr."""
    given = _arguments(sys.argv[1:] if arguments is None else arguments)
    return exit_code(lambda: _run(given), "the same command resumes")


if __name__ == "__main__":
    sys.exit(main())
