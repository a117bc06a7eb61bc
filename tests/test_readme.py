"""The README's code runs and says what the README says."""

import re
from pathlib import Path

import jax
import numpy as np

from dpm_jax import respacing
from dpm_jax.training import build
from dpm_jax.training import config as config_lib

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_parts_of_ones_own_are_found_by_their_paths(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(# my_parts.py.*?)```", README, re.DOTALL)
    (tmp_path / "my_parts.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    config = config_lib.default()
    config.data.name, config.data.options = "my_parts:moons", "num=100"
    config.network.name, config.network.options = "my_parts:Net", "width=16"
    source = build.source(config, report=lambda line: None)
    built = build.experiment(config, source.shape)
    key = jax.random.key(0)
    loss, _ = jax.jit(built.loss)(built.init(key), key, source.supply(key, 8), built.memory)
    assert np.isfinite(loss)
    assert built.module.width == 16


def test_the_example_runs_and_reaches_the_limit_it_states(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # It trains into runs.
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    blocks = [block for block in blocks if not block.startswith("# my_parts.py")]
    assert len(blocks) == 7
    code = "\n".join(blocks)
    names = {}
    exec(code, names)
    assert names["run"].shape == (2,)
    log_p = names["log_p"]
    assert log_p.value.shape == log_p.stderr.shape == (100,)
    law = np.array([[100.0, 90.0], [90.0, 81.0 + 64.0]])
    entropy = 0.5 * np.log(np.linalg.det(2 * np.pi * np.e * law))
    assert abs(log_p.value.mean() + entropy) < 0.3
    assert abs(names["kg"].mean() - 74) < 1.5
    assert abs(names["kg"].std() - 8) < 1.5
    limit = -np.log2(2 * np.pi * np.e * 0.01) - 1
    assert f"{limit:.3f}" in code
    k = names["k_net"]
    assert limit - 0.3 < k.mean / np.log(2) < limit + 4 * k.stderr / np.log(2) < limit + 0.15
    assert 400 < (names["drawn"] > 0).all(axis=1).sum() < 600
    p = 1 / (1 + np.exp([-2.0, 1.0, 0.0]))
    limit = (p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum()
    assert f"{limit:.3f}" in code
    k = names["k_bits"]
    assert abs(k.mean / np.log(2) - limit) < 4 * k.stderr / np.log(2) < 0.1
    limit = -np.log2(2 * np.pi * np.e * 0.25)
    assert f"{limit:.3f}" in code
    k = names["k"]
    mean, stderr = (float(value) / np.log(2) for value in k)
    assert abs(mean - limit) < 4 * stderr < 0.15
    assert names["x"].shape == (1000, 2)
    assert abs(float(names["x"].std()) - 0.5) < 0.05
    assert float(names["draws"][:, 0].mean()) > 0.3
    log_evidence = -0.5 * (0.64 / 0.26 + np.log(2 * np.pi * 0.26)) / np.log(2)
    mean = 0.8 * 0.25 / 0.26
    assert f"{log_evidence:.3f}, and E[x[0]] = {mean:.3f}" in code
    assert abs(k.mean - names["k_10"].mean) < 4 * np.hypot(k.stderr, names["k_10"].stderr)
    costs = [respacing.cost_of(names["table"], times) for times in (names["best"], respacing.uniform(100, 10))]
    assert costs[0] <= costs[1]
    assert 0.35 < float(names["swift"].std()) < 0.5  # ten steps without noise fall short of the spread
    assert float(names["loss"]) == 0
    assert (names["cleared"] == -1).all()
    found = names["found"]
    assert abs(float(found.log_evidence[0]) / np.log(2) - log_evidence) < 0.1
    assert abs(float((np.exp(found.log_weights[0]) * found.x[0, :, 0]).sum()) - mean) < 0.02


def test_files_it_names_are_there():
    root = Path(__file__).parent.parent
    for name in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (root / name).exists(), name
