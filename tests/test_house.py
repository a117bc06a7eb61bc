"""The floors of the house: what may import what, and that the maths needs jax and numpy alone."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dpm_jax"

FLOORS = {
    "errors": 0,
    "numerics": 0,
    "units": 0,
    "schedules": 1,
    "distributions": 1,
    "processes": 1,
    "degradations": 1,
    "nets": 1,
    "data": 1,
    "model": 2,
    "predictions": 2,
    "grey_levels": 2,
    "truncated_normal": 2,
    "timesteps": 2,
    "bound": 2,
    "objectives": 2,
    "sampling": 2,
    "ddim": 2,
    "respacing": 2,
    "guidance": 2,
    "smc": 2,
    "coloured": 2,
    "spectrum": 1,
    "likelihood": 2,
    "entropy": 2,
    "optimal": 2,
    "cold": 2,
    "training": 3,
    "evaluation": 3,
    "configs": 3,
    "cli": 4,
    "run": 3,
    "fitting": 4,
}
MATHS = [name for name, floor in FLOORS.items() if floor <= 2 and name not in ("nets", "data")]


def imported_modules(path):
    """Names of our own modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "dpm_jax":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dpm_jax."):
            yield node.module.split(".")[1]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if name == "__init__":
        return
    for imported in imported_modules(path):
        assert FLOORS[imported] <= FLOORS[name], f"{name} imports {imported} from above"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_package_needs_nothing_beside_it(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")]
        assert not {(name or "").split(".")[0] for name in names} & {"examples", "benchmarks", "tests"}


def test_the_maths_imports_with_jax_and_numpy_alone():
    script = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"flax", "optax", "orbax", "ml_collections", "absl", "matplotlib", "tensorboardX",
                                  "tqdm", "chex", "tensorflow_datasets", "grain", "PIL"}}:
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
import dpm_jax
for name in {MATHS!r}:
    __import__("dpm_jax." + name)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_every_public_name_has_a_docstring():
    import importlib

    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        module = importlib.import_module(name)
        assert module.__doc__, name
        for public in getattr(module, "__all__", ()):
            value = getattr(module, public)
            if callable(value) and getattr(value, "__module__", "").startswith("dpm_jax"):
                assert value.__doc__, f"{name}.{public}"


PROJECT = sorted(
    path for part in ("dpm_jax", "examples", "benchmarks", "tests") for path in (ROOT / part).rglob("*.py")
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]


# Phrases that a reader whose first language is not English has to read twice. None may be used.
_HARD_PHRASES = (
    "drawn anew",
    "is had",
    "of its own",
    "at hand",
    "so many",
    "goes on",
    "going on",
    "of one's own",
)
_PHRASES = re.compile("|".join(rf"\b{phrase}\b" for phrase in _HARD_PHRASES), re.IGNORECASE)
# A noun that stands somewhere else: "Of bits, ...", "What is left ...".
_SENTENCE = re.compile(r"(?:^|[.:;] +)(Of|What|That|Which) [a-z]")
# Tables and code of Markdown, and blocks that are indented, are no sentences.
_CODE = re.compile(r"^```.*?^```|^    .*?$|`[^`\n]*`", re.S | re.M)


def _texts(path):
    """Return the docstrings of a file of Python with what it says in errors and help, or a page."""
    if path.suffix == ".md":
        return [_CODE.sub("", path.read_text())]
    tree = ast.parse(path.read_text())
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize("path", PROJECT + PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_english_is_plain(path):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for text in _texts(path):
        lines = " ".join(line.strip() for line in text.splitlines())
        if not path.is_relative_to(ROOT / "tests"):
            assert not _PHRASES.search(lines), _PHRASES.search(lines)
            assert not _SENTENCE.search(lines), _SENTENCE.search(lines)
    if path.suffix == ".py":
        documented = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
        first = [(ast.get_docstring(node) or "Empty").split()[0] for node in documented]
        assert not {"Of", "What", "That", "To", "Which"} & set(first)


def test_versions_agree():
    import dpm_jax

    for file, before in (("pyproject.toml", 'version = "'), ("CITATION.cff", "version: "), ("CHANGELOG.md", "## ")):
        assert f"\n{before}{dpm_jax.__version__}" in (ROOT / file).read_text(), file


def test_every_test_that_is_called_slow_exists():
    """Names of tests that were renamed would be run, slow as they are, in `make test`."""
    for line in (ROOT / "tests" / "slow.txt").read_text().splitlines():
        file, _, name = line.split("[")[0].partition("::")
        assert (ROOT / file).exists(), line
        assert not name or f"def {name}(" in (ROOT / file).read_text(), line
