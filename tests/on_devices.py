"""Programs that tests of meshes run in separate processes, whose number of devices the environment sets.

python -m tests.on_devices train OUT [--fsdp N] [--images] [--coordinator HOST:PORT --num_processes N --process_id I]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jax
import numpy as np

from dpm_jax.data import sources
from dpm_jax.data.image_set import ImageSet
from dpm_jax.evaluation import report, samples
from dpm_jax.training import build, loop, mesh, metrics
from dpm_jax.training import config as config_lib


def points():
    """Drawn on the device."""
    config = config_lib.default()
    config.num_timesteps = 6
    config.network.time_mlp.features = (128, 128)
    config.train.steps, config.train.log_every, config.train.checkpoint_every = 24, 6, 12
    config.train.batch_size = 48
    return config, build.source(config)


def images():
    """Brought from the host."""
    config = config_lib.default()
    config.num_timesteps = 4
    config.data.name, config.data.file.path = "file", "unused.npz"
    config.network.name = "multiscale"
    config.network.multiscale.features = 4
    config.network.multiscale.num_layers = 1
    config.train.steps, config.train.log_every, config.train.checkpoint_every = 6, 2, 4
    config.train.batch_size = 16
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    return config, sources.image_source(ImageSet(pixels[:32], pixels[32:], None))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--images", action="store_true")
    parser.add_argument("--coordinator")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    arguments = parser.parse_args()
    if arguments.coordinator:
        jax.distributed.initialize(arguments.coordinator, arguments.num_processes, arguments.process_id)
    config, source = images() if arguments.images else points()
    built = build.experiment(config, source.shape)
    with mesh.over_all_devices(-1, arguments.fsdp):
        found = loop.train(built, source, arguments.out, lambda _: None)
        bound = report.evaluate(jax.random.key(1), built, found.params, source, 8 if arguments.images else 50, 0)
        drawn = samples.draw(jax.random.key(2), built, found.params, source.standardization, 21)
        params = jax.jit(mesh.gather)(found.params)
        placed = {str(leaf.sharding.spec) for leaf in jax.tree.leaves(found.params) if jax.device_count() > 1}
    if jax.process_index() == 0:
        lines = metrics.read(arguments.out / "metrics.jsonl")
        told = {
            "losses": [line["training_bits"] for line in lines],
            "bound": bound.bound_bits.mean,
            "placed": sorted(placed),
            "devices": jax.device_count(),
        }
        (arguments.out / "told.json").write_text(json.dumps(told))
        np.savez(arguments.out / "arrays.npz", *map(np.asarray, jax.tree.leaves(params)), samples=drawn)


if __name__ == "__main__":
    main()
