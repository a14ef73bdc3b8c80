# All set-up happens by itself, and is skipped while it is up to date. See CONTRIBUTING.md for what may be overridden:
#   make test PYTHON=python3.12
#   make test TORCH='torch --index-url <the CPU index that pytorch.org/get-started names>'
PYTHON ?= python3
TORCH ?= torch==2.13.0
CONSTRAINTS ?= constraints.txt
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test test-all check setup clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      train a model in two minutes and look inside it"
	@echo "make test      the fast tests (what CI runs, after make check)"
	@echo "make test-all  all tests, the long ones too"
	@echo "make check     lint, format, types, import contracts"
	@echo "make setup     only the virtual environment ($(VENV))"

demo: $(READY)
	$(BIN)/itda demo

test: $(READY)
	$(BIN)/python -m pytest -m 'not long'

test-all: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(READY)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# PyTorch comes first and alone, so that TORCH can choose its build; the rest then finds it there.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "itda needs Python 3.10 or newer; '$(PYTHON)' is older or missing: make ... PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) -c $(CONSTRAINTS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c $(CONSTRAINTS)
	@touch $@
