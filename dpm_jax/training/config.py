"""The config: every field with its default, and what makes one valid.

All configs share one tree, so that any of them can be turned into any other from the
command line, and a wrong name can be told from a right one. Sections with a `name` hold
the settings of every choice; those of the chosen one are used.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from dpm_jax.errors import UserError
from dpm_jax.training import storage

__all__ = ["check", "default", "differences", "load", "nearest_field", "save"]

# Fields that may differ between a run and its resumption: how long, how often things are written, where and how things
# are computed. So may those of a choice that is not the one that is named, as `network.unet` of an MLP.
RESUMABLE = {
    "train.steps",
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
}

CHOICES = {
    "kernel": ("gaussian", "binomial", "cold"),
    "edge": ("forward", "decoder"),
    "data.name": ("swiss_roll", "heartbeat", "dead_leaves", "tfds", "folder", "file"),
    "data.folder.on_error": ("refuse", "skip"),
    "data.file.constant_columns": ("refuse", "leave_out"),
    "data.file.integers": ("dequantize", "real"),
    "schedule.name": ("geometric", "erase", "linear", "cosine", "sigmoid"),
    "reverse.prediction": ("residual", "epsilon", "x_0", "v", "perturbation"),
    "reverse.variance": ("mixed", "sigmoid", "interpolated", "small", "large"),
    "reverse.covariance": ("diagonal", "full"),
    "network.name": ("time_mlp", "sigmoid_mlp", "rbf", "multiscale", "unet"),
    "network.dtype": ("float32", "bfloat16"),
    "network.precision": ("highest", "high", "default"),
    "network.multiscale.activation": ("softplus_tanh", "leaky_relu"),
    "cold.degradation": ("blur", "pixelate", "fade", "mask"),
    "cold.rule": ("improved", "naive"),
    "cold.norm": ("l1", "l2"),
    "train.objective": ("bound", "simple", "hybrid", "sample_mse", "restoration"),
    "train.time_sampler": ("low_discrepancy", "antithetic", "uniform", "importance"),
}

# What was done before there was the field, where that is not the default.
_BEFORE = {"data.file.integers": "real", "data.validation": 0.0}

# Intervals as in mathematics: a bracket belongs, a parenthesis does not.
RANGES = {
    "seed": "[0, 4294967295)",
    "num_timesteps": "[1, inf)",
    "data.swiss_roll.noise": "[1e-4, inf)",
    "data.heartbeat.length": "[1, inf)",
    "data.heartbeat.period": "[1, inf)",
    "data.dead_leaves.size": "[1, inf)",
    "data.validation": "[0, 1)",
    "data.dead_leaves.channels": "[1, inf)",
    "data.dead_leaves.r_min": "[0.5, inf)",
    "data.crop": "[0, inf)",
    "data.folder.held_out": "(0, 1)",
    "data.file.held_out": "(0, 1)",
    "schedule.num_bumps": "[1, inf)",
    "schedule.geometric.nsr_final": "(0, 1e12]",
    "network.time_mlp.frequency_scale": "[0, inf)",
    "network.time_mlp.num_bumps": "[1, inf)",
    "network.time_mlp.num_frequencies": "[0, inf)",
    "network.rbf.units": "[1, inf)",
    "network.multiscale.features": "[1, inf)",
    "network.multiscale.num_layers": "[0, inf)",
    "network.multiscale.num_scales": "[1, 12]",
    "network.multiscale.kernel_size": "[1, inf)",
    "network.multiscale.dense_features": "[1, inf)",
    "network.multiscale.dense_layers": "[0, inf)",
    "network.multiscale.dense_outputs": "[1, inf)",
    "network.multiscale.pointwise_features": "[1, inf)",
    "network.multiscale.pointwise_layers": "[0, inf)",
    "network.multiscale.num_bumps": "[1, inf)",
    "network.unet.num_blocks": "[1, inf)",
    "network.unet.patch_size": "[1, inf)",
    "network.unet.num_heads": "[1, inf)",
    "network.unet.num_groups": "[1, inf)",
    "network.unet.num_bumps": "[1, inf)",
    "network.unet.dropout": "[0, 1)",
    "optimizer.learning_rate": "(0, inf)",
    "optimizer.adam.b1": "[0, 1)",
    "optimizer.adam.b2": "[0, 1)",
    "optimizer.adamw.b1": "[0, 1)",
    "optimizer.adamw.b2": "[0, 1)",
    "optimizer.adamw.weight_decay": "[0, inf)",
    "optimizer.sgd.momentum": "[0, 1)",
    "optimizer.warmup_steps": "[0, inf)",
    "optimizer.decay.cosine_decay_schedule.alpha": "[0, 1]",
    "optimizer.decay.exponential_decay.decay_rate": "(0, inf)",
    "optimizer.clip_norm": "(0, inf]",
    "optimizer.ema_decay": "[0, 1)",
    "train.steps": "[1, inf)",
    "train.batch_size": "[2, inf)",
    "train.accumulate": "[1, inf)",
    "train.log_every": "[1, inf)",
    "train.emphasis": "[0, inf)",
    "train.checkpoint_every": "[1, inf)",
    "train.keep_every": "[0, inf)",
    "train.max_skipped": "[1, inf)",
    "mesh.data": "[-1, inf)",
    "mesh.fsdp": "[-1, inf)",
    "evaluate.num_examples": "[2, inf)",
    "evaluate.num_samples": "[1, inf)",
}


def default() -> ConfigDict:
    """The tree of all fields, with the values of the swiss roll."""
    return ConfigDict(
        {
            "seed": 0,
            "num_timesteps": 100,  # T
            "kernel": "gaussian",  # gaussian: real vectors; binomial: bits; cold: images, no noise
            "edge": "forward",  # p(x_0 | x_1): forward = the paper's appendix B.2; decoder = learned
            "data": {
                "name": "swiss_roll",
                "swiss_roll": {"noise": 0.0035},  # in units of the roll's standard deviation
                "heartbeat": {"length": 20, "period": 5},
                "dead_leaves": {"size": 32, "channels": 1, "r_min": 2.0, "r_max": 32.0},  # pixels
                "tfds": {  # images; --data_dir, or TFDS_DATA_DIR, is where they are
                    "dataset": "mnist",
                    "feature": "image",
                    "train_split": "train",
                    "held_out_split": "test",
                    "in_memory": True,  # decode once, at the start
                },
                "folder": {  # images, or one image file; relative to --data_dir
                    "path": "",
                    "held_out": 0.1,  # of the images; of a single one, of its rows
                    "on_error": "refuse",  # skip: leave out what can't be read
                },
                "file": {  # .npy, .npz or .csv; relative to --data_dir
                    "path": "",
                    "held_out": 0.1,  # of the rows, or images
                    "constant_columns": "refuse",  # leave_out: for the model; they are put back into samples
                    "integers": "dequantize",  # columns, or float images, of nothing but integers; or real
                },
                "validation": 0.02,  # of the training split: not trained on, says which checkpoint is the best; 0: all
                "crop": 0,  # side of the random squares that tfds, folder and file images are cut into; 0: whole images
            },
            "schedule": {
                "name": "geometric",
                "learned": False,  # learn beta_2..T, starting from the named schedule (Gaussian only)
                "num_bumps": 10,  # basis of the learned change
                "geometric": {"beta_1": 3e-7, "nsr_final": 400.0},
                "erase": {"beta_1": config_dict.placeholder(float), "alpha_bar_final": 0.0},
                "linear": {"beta_1": config_dict.placeholder(float), "beta_final": config_dict.placeholder(float)},
                "cosine": {"offset": 0.008, "beta_max": 0.999},
                "sigmoid": {"start": -3.0, "end": 3.0, "alpha_bar_final": 1e-4},
            },
            "reverse": {  # see dpm_jax/predictions.py
                "prediction": "residual",  # what the network predicts; bits: x_0 (its marginals) or perturbation
                "variance": "mixed",  # of the reverse step; Gaussian only
                "covariance": "diagonal",  # full: low-dimensional Gaussian data
            },
            "cold": {  # kernel cold: a degradation, and a network that restores; see dpm_jax/cold.py
                "degradation": "blur",
                "rule": "improved",  # of sampling
                "norm": "l1",  # of the restoration loss
                "blur": {"sigma_first": 0.5, "sigma_final": 28.0},  # pixels
                "mask": {"first": 0.03, "final": 1.0},  # widths, as shares of the longer side
            },
            "network": {
                "name": "time_mlp",
                "time_mlp": {
                    "features": (64, 64, 64),
                    "num_bumps": 10,
                    "num_frequencies": 32,
                    "frequency_scale": 2.0,
                },
                "sigmoid_mlp": {"features": (50, 50, 50)},
                "rbf": {"units": 16},
                "dtype": "float32",  # that multiscale and unet compute in; parameters and outputs stay float32
                # Bits that accelerators multiply float32 numbers in, gradients too: highest is float32; high and
                # default are faster (TF32 on GPUs; on TPUs three passes of bfloat16, or one).
                "precision": "highest",
                "multiscale": {
                    "features": 20,
                    "num_layers": 4,
                    "num_scales": 1,
                    "kernel_size": 3,
                    "dense_features": 500,
                    "dense_layers": 0,
                    "dense_outputs": 2,
                    "pointwise_features": 20,
                    "pointwise_layers": 2,
                    "activation": "leaky_relu",
                    "film": False,  # time acts on every layer, not in the readout alone
                    "num_bumps": 10,
                },
                "unet": {
                    "features": (32, 64),
                    "num_blocks": 1,
                    "patch_size": 1,
                    "attention": True,
                    "num_heads": 4,
                    "num_groups": 8,
                    "num_bumps": 16,
                    "dropout": 0.0,  # in training
                    "remat": False,  # less memory for a third more time
                },
            },
            "optimizer": {
                "name": "adam",  # any of Optax that takes a learning rate
                "adam": {"b1": 0.9, "b2": 0.99},
                "adamw": {"b1": 0.9, "b2": 0.99, "weight_decay": 1e-4},
                "sgd": {"momentum": 0.0, "nesterov": False},
                "options": "",  # of the one that is named, others than these or over them: "eps=1e-6, nesterov=True"
                "learning_rate": 5e-3,
                "warmup_steps": 200,  # linear, and then
                "decay": {
                    "name": "cosine_decay_schedule",  # any schedule of Optax; to the end of training if not told
                    "cosine_decay_schedule": {"alpha": 0.01},
                    "exponential_decay": {"decay_rate": 0.01},
                    "options": "",
                },
                "clip_norm": 1.0,
                "ema_decay": 0.998,
            },
            "train": {
                "steps": 2500,
                "batch_size": 1024,
                "accumulate": 1,  # parts that a batch is cut into, one after another; the gradient is their mean
                "objective": "bound",  # -K; others to compare it with, dpm_jax/objectives.py; restoration: kernel cold
                "time_sampler": "low_discrepancy",  # which t to look at
                "emphasis": 0.0,  # t counts (1 - alpha_bar_t)^emphasis: less of the finest noise; 0: the bound itself
                "log_every": 100,  # also how many steps go into one dispatch
                "checkpoint_every": 1000,
                "keep_every": 0,  # checkpoints at its multiples stay for good, beside the newest two and the best
                "max_skipped": 10,  # steps whose loss is not finite are skipped; so many in a row end the training
            },
            "mesh": {
                "data": -1,
                "fsdp": 1,
            },  # devices along each axis, -1: all that are left
            "evaluate": {"num_examples": 20000, "num_samples": 64},  # samples: images shown in the figure
        }
    )


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


def _within(value: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def check(config: ConfigDict) -> None:
    """Refuse a config with an unknown field, a wrong type, or a value out of range.

    Raises:
      UserError: one line naming the field, the value and what would be accepted.
    """
    standard = dict(_leaves(default()))
    present = dict(_leaves(config))
    for field, value in present.items():
        if message := nearest_field(field):
            raise UserError(message)
        _check_type(field, value, standard[field])
    for field in standard:
        if field not in present:
            raise UserError(f"config.{field}: missing; begin a config with dpm_jax.training.config.default()")
    for field, names in CHOICES.items():
        if present[field] not in names:
            close = difflib.get_close_matches(str(present[field]), names, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"config.{field}: must be one of {', '.join(names)}, got {present[field]!r}{hint}")
    for field, interval in RANGES.items():
        if not _within(present[field], interval):
            raise UserError(f"config.{field}: must lie in {interval}, got {present[field]}")
    for field in ("network.time_mlp.features", "network.sigmoid_mlp.features", "network.unet.features"):
        if not all(isinstance(width, int) and width > 0 for width in present[field]):
            raise UserError(f"config.{field}: must be positive widths, got {present[field]!r}")
    _check_relations(config)


def _check_relations(config: ConfigDict) -> None:
    if config.kernel == "binomial":
        if config.data.name == "swiss_roll":
            raise UserError("config.kernel: 'binomial' needs bits, and data 'swiss_roll' are real numbers")
        if config.schedule.learned:
            raise UserError("config.schedule.learned: bits are not differentiable in beta_t; use kernel 'gaussian'")
        if config.data.name in ("dead_leaves", "tfds", "folder"):
            raise UserError(f"config.kernel: 'binomial' needs bits, and data '{config.data.name}' are images")
    if config.kernel == "gaussian" and config.data.name == "heartbeat":
        raise UserError("config.kernel: data 'heartbeat' are bits, which need kernel 'binomial'")
    if config.kernel == "cold" and config.data.name in ("swiss_roll", "heartbeat"):
        raise UserError(f"config.kernel: 'cold' degrades images, and data '{config.data.name}' are vectors")
    _check_reverse(config)
    _check_objective(config)
    if config.train.batch_size % config.train.accumulate:
        whole, parts = config.train.batch_size, config.train.accumulate
        raise UserError(f"config.train.accumulate: must divide the batch of {whole}, got {parts}")
    if config.data.crop and config.data.name not in ("tfds", "folder", "file"):
        raise UserError(f"config.data.crop: data '{config.data.name}' are not cut; leave it 0")
    if config.network.dtype != "float32" and config.network.name not in ("multiscale", "unet"):
        raise UserError(f"config.network.dtype: network '{config.network.name}' computes in float32")
    if config.data.name in ("file", "folder") and not config.data[config.data.name].path:
        needed = {"file": "a .npy, .npz or .csv", "folder": "a folder of images, or of one image"}[config.data.name]
        raise UserError(f"config.data.{config.data.name}.path: data '{config.data.name}' needs the path of {needed}")
    _check_network(config)
    heartbeat = config.data.heartbeat
    if heartbeat.period > heartbeat.length:
        raise UserError(
            f"config.data.heartbeat.period: must be at most the length {heartbeat.length}, got {heartbeat.period}"
        )


def _check_reverse(config: ConfigDict) -> None:
    reverse = config.reverse
    if config.kernel == "binomial":
        if reverse.prediction not in ("x_0", "perturbation"):
            raise UserError(
                f"config.reverse.prediction: '{reverse.prediction}' is for kernel 'gaussian'; kernel 'binomial' takes "
                "x_0 (the marginals of x_0) or perturbation"
            )
        if reverse.covariance == "full":
            raise UserError("config.reverse.covariance: 'full' is for kernel 'gaussian'")
        if reverse.variance != "mixed":
            raise UserError(
                f"config.reverse.variance: '{reverse.variance}' is for kernel 'gaussian', bits have none of their own; "
                "leave it mixed"
            )
    if reverse.covariance == "full" and reverse.variance != "mixed":
        raise UserError(f"config.reverse.covariance: 'full' needs reverse.variance 'mixed', got '{reverse.variance}'")


def _check_objective(config: ConfigDict) -> None:
    objective, fixed = config.train.objective, config.reverse.variance in ("small", "large")
    if (objective == "restoration") != (config.kernel == "cold"):
        raise UserError(
            f"config.train.objective: 'restoration' and kernel 'cold' go together, got '{objective}' and "
            f"'{config.kernel}'"
        )
    if objective == "restoration" and config.reverse.covariance == "full":
        raise UserError("config.reverse.covariance: kernel 'cold' has none; leave it diagonal")
    if objective in ("simple", "hybrid") and config.kernel == "binomial":
        raise UserError(f"config.train.objective: '{objective}' predicts noise, of which kernel 'binomial' has none")
    if objective == "simple" and not fixed:
        raise UserError(
            f"config.train.objective: 'simple' teaches no variance, and reverse.variance '{config.reverse.variance}' "
            "is learned; use 'hybrid', or reverse.variance small or large"
        )
    if objective == "hybrid" and fixed:
        raise UserError(
            f"config.train.objective: 'hybrid' teaches a variance, and reverse.variance '{config.reverse.variance}' "
            "is fixed; use 'simple'"
        )
    if objective != "bound":
        if config.schedule.learned:
            raise UserError(f"config.schedule.learned: needs train.objective 'bound', got '{objective}'")
        if config.train.emphasis or config.train.time_sampler == "importance":
            raise UserError(
                f"config.train.objective: '{objective}' goes neither with emphasis nor with time_sampler 'importance'"
            )
    if config.train.emphasis and config.train.time_sampler != "low_discrepancy":
        raise UserError("config.train.emphasis: needs train.time_sampler 'low_discrepancy'")


def _check_network(config: ConfigDict) -> None:
    multiscale, unet = config.network.multiscale, config.network.unet
    if multiscale.kernel_size % 2 == 0:
        raise UserError(f"config.network.multiscale.kernel_size: must be odd, got {multiscale.kernel_size}")
    if multiscale.num_layers == multiscale.dense_layers == 0:
        raise UserError("config.network.multiscale: num_layers and dense_layers are both 0; one path is needed")
    if not unet.features:
        raise UserError("config.network.unet.features: one level at least is needed")
    if unet.attention and unet.features[-1] % unet.num_heads:
        raise UserError(
            f"config.network.unet.num_heads: must divide the {unet.features[-1]} features of the last level, "
            f"got {unet.num_heads}"
        )


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Fields, other than those that may change on resumption, in which two configs differ: 'field: old, now new'."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    fields = [f for f in {**before, **after} if f not in RESUMABLE and (_used(f, before) or _used(f, after))]
    return [
        f"{f}: {before.get(f)}, now {after.get(f)}" for f in fields if _plain(before.get(f)) != _plain(after.get(f))
    ]


def _used(field: str, values: dict[str, Any]) -> bool:
    """Return whether a field changes anything: those of a choice do, where it is the one that is named."""
    parts = field.split(".")
    for i in range(1, len(parts) - 1):
        section, choice = ".".join(parts[:i]), parts[i]
        # A section that has a field `name` itself, such as optimizer.decay, is not one of several choices.
        if f"{section}.name" in values and f"{section}.{choice}.name" not in values:
            return bool(values[f"{section}.name"] == choice)
    return parts[0] != "cold" or values["kernel"] == "cold"


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
