# Both targets make their own virtual environment; a fresh machine needs only python3 (3.11 to 3.13) and make.
PYTHON ?= python3
VENV := .venv

.PHONY: demo test test-all lowest quick lint bench docs dist clean

demo: $(VENV)/.installed
	$(VENV)/bin/python train.py

# Most of the time of the tests is compilation, which takes a third less without optimisation; `test-all` optimises.
test: lint $(VENV)/.installed-test
	XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=0" \
	  $(VENV)/bin/python -m pytest -n auto --dist worksteal -m "not slow"

test-all: lint $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest -n auto --dist worksteal

# The code of the documentation and the wheel, and a part that sees what another Python or JAX would break.
quick: $(VENV)/.installed-test
	XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=0" $(VENV)/bin/python -m pytest -n auto --dist worksteal \
	  tests/test_docs.py tests/test_commands.py tests/test_contract.py tests/test_imports.py tests/test_saved.py \
	  tests/test_wheel.py::test_its_commands_train_evaluate_and_sample_in_another_folder

# With the lowest versions that pyproject.toml names.
lowest: $(VENV)-lowest/.installed
	XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=0" \
	  $(VENV)-lowest/bin/python -m pytest -n auto --dist worksteal -m "not slow"

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(VENV)/.installed
	$(VENV)/bin/python -m benchmarks
	$(VENV)/bin/python -m benchmarks.convolution

# The site, into site/; a link or a name that is not there is an error.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict

# The source archive and the wheel, into dist/, of the version that TAG names, if it is given.
dist: $(VENV)/.installed-docs
	$(VENV)/bin/python -c "import dpm_jax; assert '$(TAG)' in ('', 'v' + dpm_jax.__version__), '$(TAG)'"
	rm -rf dist
	$(VENV)/bin/python -m build --quiet
	$(VENV)/bin/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV) .venv-* site dist build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable '.[train]'
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable '.[data,test]'
	touch $@ $(VENV)/.installed

$(VENV)-lowest/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet uv
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct --editable '.[data,test]'
	touch $@

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable '.[docs]'
	touch $@ $(VENV)/.installed
