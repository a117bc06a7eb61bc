"""The README's code runs and says what the README says, and it is short."""

import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_examples_run_and_reach_the_limit_they_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    first, second = code.split("import dpm_jax\n")
    names = {}
    exec(first, names)
    limit = -np.log2(2 * np.pi * np.e * 0.25)
    assert f"the limit is {limit:.3f}" in code
    mean, stderr = (float(value) / np.log(2) for value in names["k"])
    assert abs(mean - limit) < 4 * stderr < 0.15
    assert abs(float(names["x"].std()) - 0.5) < 0.05
    exec("import dpm_jax\n" + second, names)
    assert names["k"].value.shape == names["k"].stderr.shape == (64,)
    assert abs(names["log_p"].value.mean() + np.log(5)) < 0.2
    assert (names["rest"][:, :5] == names["words"][0, :5]).all()


def test_it_is_short_and_the_files_it_names_are_there():
    assert len(README.splitlines()) <= 150
    for name in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / name).exists(), name
