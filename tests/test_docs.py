"""Every Python block of the documentation runs, and the reference shows every public name in one that does."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def blocks(path):
    """Return the Python blocks of a page that are run; those that begin with `# FILE.py` are files beside them."""
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


PAGES = sorted(path for path in DOCS.rglob("*.md") if blocks(path))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_the_code_of_a_page_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # It trains into runs.
    monkeypatch.syspath_prepend(tmp_path)
    code = []
    for block in blocks(path):
        if name := re.match(r"# (\w+\.py)\b", block):
            (tmp_path / name[1]).write_text(block)
        else:
            code.append(block)
    exec(compile("\n".join(code), str(path), "exec"), {"__name__": "__main__"})


def _is_record(value):
    """Return whether it is what functions return, or a type that they are annotated with, and not called by users."""
    if not isinstance(value, type):
        return not hasattr(value, "__code__") and not hasattr(value, "__wrapped__")
    return hasattr(value, "_fields") or getattr(value, "_is_protocol", False)


REFERENCE = sorted((DOCS / "reference").glob("*.md"))


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.name)
def test_the_reference_has_an_example_of_every_function_and_class(path):
    import importlib

    code = "\n".join(blocks(path))
    used = {node.attr for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute)}
    used |= {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    used |= {
        alias.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    for name in re.findall(r"^::: (dpm_jax\S*)$", path.read_text(), re.MULTILINE):
        module = importlib.import_module(name)
        public = {name: getattr(module, name) for name in module.__all__}
        wanted = {name for name, value in public.items() if callable(value) and not _is_record(value)}
        assert wanted <= used, f"{path.name} shows no use of {sorted(wanted - used)}"


def test_every_module_of_the_mathematics_has_a_page_of_reference():
    from tests.test_house import MATHS

    text = "\n".join(path.read_text() for path in REFERENCE)
    missing = [name for name in MATHS if name not in ("errors", "numerics") and f"::: dpm_jax.{name}" not in text]
    assert not missing


def test_pages_are_in_the_navigation_and_there():
    named = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert named == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
