"""The config: every field with its default and its type.

All configs share one tree, so that any of them can be turned into any other from the command line, and unknown names
are refused. Sections with a `name` hold the arguments of every part that has a short name (`parts`); those of the
chosen part are used. Values are checked by what uses them, when `build` puts the parts together.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dpm_jax.errors import UserError
from dpm_jax.training import parts, storage
from dpm_jax.training.settings import Evaluate, Train

__all__ = ["check", "default", "differences", "load", "nearest_field", "save"]

# Fields that may differ between a run and its resumption: how long, on how many examples a step, how often things are
# written, where and how things are computed. So may those of a choice that is not the one that is named, as
# `network.unet` of an MLP.
RESUMABLE = {
    "train.steps",
    "train.batch_size",
    "train.accumulate",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_every",
    "train.max_skipped",
    "data.tfds.in_memory",
    "network.unet.remat",
    "mesh.data",
    "mesh.fsdp",
    "evaluate.num_examples",
    "evaluate.num_samples",
    "evaluate.num_times",
}

# What was done before there was the field, where that is not the default.
_BEFORE = {"data.file.integers": "real", "data.validation": 0.0}


def default() -> ConfigDict:
    """Return the tree of all fields, with the values of the swiss roll.

    The arguments of a part, and their defaults, are those of its signature.
    """
    return ConfigDict(
        {
            "seed": 0,
            "num_timesteps": 100,  # T
            "kernel": "gaussian",  # gaussian: real vectors; binomial: bits; cold: images, no noise
            # p(x_0 | x_1): forward = the paper's appendix B.2; decoder = learned; grid = learned, of pixels' levels
            "edge": "forward",
            "noise": "white",  # of the Gaussian chain; spectrum: the images', see dpm_jax/coloured.py
            "data": {
                **_sections("data"),
                "validation": 0.02,  # of the training split: not trained on, says which checkpoint is the best; 0: all
                # Side of the random squares that images are cut into; 0: whole images; -1: what suits a folder or file.
                "crop": 0,
            },
            "schedule": {
                **_sections("schedule", geometric={"beta_1": 3e-7}),
                "learned": False,  # learn beta_2..T, starting from the named schedule (Gaussian only)
                "num_bumps": 10,  # basis of the learned change
                "ends_learned": False,  # learn the noise at t = 1 and at t = T (Gaussian only)
                "first_step": 1 / 6,  # edge grid: noise at t = 1 in grey levels, in place of beta_1
            },
            "reverse": {  # see dpm_jax/predictions.py
                # What the network predicts; bits: x_0 (its marginals) or perturbation; 8-bit pixels: levels, too, see
                # dpm_jax/grey_levels.py.
                "prediction": "residual",
                "variance": "mixed",  # of the reverse step; Gaussian only
                "covariance": "diagonal",  # full: low-dimensional Gaussian data
            },
            "cold": {  # kernel cold: a degradation, and a network that restores; see dpm_jax/cold.py
                **_sections("cold", "degradation", blur={"sigma_final": 28.0}),
                "rule": "improved",  # of sampling
                "norm": "l1",  # of the restoration loss
            },
            "network": {
                **_sections("network", time_mlp={"num_frequencies": 32}),
                "dtype": "float32",  # that multiscale and unet compute in; parameters and outputs stay float32
                # Bits that accelerators multiply float32 numbers in, gradients too: highest is float32; high and
                # default are faster (TF32 on GPUs; on TPUs three passes of bfloat16, or one).
                "precision": "highest",
            },
            "optimizer": {
                "name": "adam",  # any of Optax that takes a learning rate, "muon", or "package.module:callable"
                "adam": {"b1": 0.9, "b2": 0.99},
                "adamw": {"b1": 0.9, "b2": 0.99, "weight_decay": 1e-4},
                "muon": {"rms": 0.2, "beta": 0.95},
                "sgd": {"momentum": 0.0, "nesterov": False},
                "options": "",  # of the one that is named, others than these or over them: "eps=1e-6, nesterov=True"
                "learning_rate": 5e-3,
                "warmup_steps": 200,  # linear, and then
                "decay": {
                    "name": "cosine_decay_schedule",  # any schedule of Optax; to the end of training by default
                    "cosine_decay_schedule": {"alpha": 0.01},
                    "exponential_decay": {"decay_rate": 0.01},
                    "options": "",
                },
                "clip_norm": 1.0,
                "ema_decay": 0.998,
            },
            "train": dataclasses.asdict(Train()),
            "mesh": {"data": -1, "fsdp": 1},  # devices along each axis, -1: all that are left
            "evaluate": dataclasses.asdict(Evaluate()),
        }
    )


def _sections(section: str, selector: str = "name", **changes: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a section that names a part: its name, and the arguments of each that has a short name."""
    names = parts.SHORT_NAMES[section]
    arguments = {name: parts.defaults(path) | changes.get(name, {}) for name, path in names.items()}
    chosen = {selector: next(iter(names)), "options": ""}
    return chosen | {name: values for name, values in arguments.items() if values}


def _leaves(tree: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in tree:
        value = tree[name]
        if isinstance(value, ConfigDict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def nearest_field(field: str) -> str | None:
    """None for a field of the tree; for any other, the one line that says so, with the nearest valid name."""
    known = [name for name, _ in _leaves(default())]
    if field in known:
        return None
    last = field.rsplit(".", 1)[-1]
    close = difflib.get_close_matches(field, known, n=1, cutoff=0.6)
    close = close or [name for name in known if difflib.get_close_matches(last, [name.rsplit(".", 1)[-1]])]
    hint = f"; did you mean config.{close[0]}?" if close else ""
    return f"config.{field}: no such field{hint}"


def _check_type(field: str, value: Any, standard: Any) -> None:
    if standard is None:
        allowed: tuple[type, ...] = (float, int, type(None))
    elif isinstance(standard, float):
        allowed = (int, float)
    elif isinstance(standard, tuple):
        allowed = (tuple, list)
    else:
        allowed = (type(standard),)
    if not isinstance(value, allowed) or (isinstance(value, bool) and not isinstance(standard, bool)):
        raise UserError(f"config.{field}: must be {allowed[0].__name__}, got {value!r}")


def check(config: ConfigDict) -> None:
    """Refuse a config with an unknown or missing field, or a wrong type.

    Raises:
      UserError: one line naming the field, the value and what would be accepted.
    """
    standard = dict(_leaves(default()))
    present = dict(_leaves(config))
    for field, value in present.items():
        if field not in standard:
            raise UserError(nearest_field(field))
        _check_type(field, value, standard[field])
    for field in standard:
        if field not in present:
            raise UserError(f"config.{field}: missing; begin a config with dpm_jax.training.config.default()")


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Fields, other than those that may change on resumption, in which two configs differ: 'field: old, now new'."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    fields = [f for f in {**before, **after} if f not in RESUMABLE and (_used(f, before) or _used(f, after))]
    return [
        f"{f}: {before.get(f)}, now {after.get(f)}" for f in fields if _plain(before.get(f)) != _plain(after.get(f))
    ]


def _used(field: str, values: dict[str, Any]) -> bool:
    """Return whether a field has an effect: it belongs to the kernel, and to the part that is named."""
    pieces = field.split(".")
    is_cold = values["kernel"] == "cold"
    if pieces[0] in (("schedule", "reverse", "edge", "noise") if is_cold else ("cold",)):
        return False
    for i in range(1, len(pieces) - 1):
        section, choice = ".".join(pieces[:i]), pieces[i]
        # A section that has a field `name` itself, such as optimizer.decay, is not one of several choices.
        if f"{section}.name" in values and f"{section}.{choice}.name" not in values:
            return bool(values[f"{section}.name"] == choice)
    return True


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


def save(config: ConfigDict, path: Path) -> None:
    """Write as strict JSON, whole or not at all; a number without limit is null.

    Raises:
      UserError: if the file can't be written.
    """
    storage.write_json(path, config.copy_and_resolve_references().to_dict(), indent=2)


def _with_tuples(tree: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples; configs hold no lists."""
    return {
        name: _with_tuples(value) if isinstance(value, dict) else tuple(value) if isinstance(value, list) else value
        for name, value in tree.items()
    }


def load(path: Path) -> ConfigDict:
    """Read what `save` wrote.

    Raises:
      UserError: if the file is missing, damaged, or not a valid config.
    """
    try:
        tree = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path.parent}: not a workdir of train.py ({path.name} is missing)") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path}: damaged: not a config")
    # A field that is younger than the file has the value of what was done before there was one.
    config = default()
    present = dict(_leaves(ConfigDict(_with_tuples(tree))))
    known = dict(_leaves(config))
    for field in present:
        if field not in known:
            raise UserError(f"{path}: {nearest_field(field)}")
    # JSON has no infinity: `save` writes null.
    unlimited = {name: math.inf for name, value in present.items() if value is None and isinstance(known[name], float)}
    with config.ignore_type():
        config.update_from_flattened_dict(_BEFORE | present | unlimited)
    check(config)
    return config
