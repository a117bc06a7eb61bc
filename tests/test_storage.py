"""JSON files are strict, and are written whole or not at all."""

import ast
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from dpm_jax.errors import UserError
from dpm_jax.training import config as config_lib
from dpm_jax.training import storage
from dpm_jax.training.metrics import MetricsWriter, read
from tests import strict_json

ROOT = Path(__file__).parent.parent


class Pair(NamedTuple):
    a: float
    b: tuple


def test_json_is_strict(tmp_path):
    path = tmp_path / "new" / "tree.json"
    storage.write_json(
        path, {"x": [1.0, float("nan"), -np.inf], "y": np.array([np.inf, 2]), 3: Pair(np.float32(1), (2,))}
    )
    assert strict_json.parse(path.read_text()) == {"x": [1, None, None], "y": [None, 2], "3": {"a": 1, "b": [2]}}
    assert [p.name for p in path.parent.iterdir()] == ["tree.json"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "tree.json"
    storage.write_json(path, {"x": 1})
    with pytest.raises(TypeError):
        storage.write_json(path, {"x": object()})
    assert strict_json.parse(path.read_text()) == {"x": 1}
    with pytest.raises(UserError, match=r"tree\.json/more\.json: cannot be written"):
        storage.write_json(path / "more.json", {})


def test_metrics_and_configs_that_are_not_finite_are_strict_json(tmp_path):
    with MetricsWriter(tmp_path, 0) as metrics:
        metrics.scalars(1, {"loss": float("nan")})
    assert strict_json.parse((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": None}
    assert read(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": None}]
    config = config_lib.default()
    config.optimizer.clip_norm = np.inf
    config_lib.save(config, tmp_path / "config.json")
    strict_json.parse((tmp_path / "config.json").read_text())
    assert config_lib.differences(config_lib.load(tmp_path / "config.json"), config) == []


@pytest.mark.parametrize("folder", ["dpm_jax", "examples"])
def test_json_is_made_in_one_place(folder):
    """`json_text`, which is strict; and messages between processes, which are text and steps."""
    makers = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("dump", "dumps", "to_json", "to_json_best_effort"):
                makers.add(path.name)
    assert makers <= {"storage.py", "hosts.py"}
