# Every target sets up what it needs: `make demo` and `make test` work on a fresh clone with Python >= 3.11 and make.

VENV   ?= .venv
PYTHON ?= python3
PIP    := $(VENV)/bin/python -m pip --disable-pip-version-check -qq
STAMP  := $(VENV)/.ktb-installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test quick check format wheel clean

help: ## list the targets
	@echo "make TARGET, with VENV=path to use another virtual environment (now: $(VENV))"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## create the virtual environment and install ktb into it, once

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "Python >= 3.11 is needed, %s is %d.%d: set PYTHON=/path/to/python" % (sys.executable, v[0], v[1]))'
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing ktb and what it needs into $(VENV) (some 5 GB with PyTorch; a few minutes, once)"
	@$(PIP) install --editable '.[dev]'
	@touch $@

demo: setup ## train and test on the embedded synthetic data: no download, 3 to 5 minutes on 2 CPU cores
	@$(VENV)/bin/ktb-train

# A process per core, each with one thread: the tests' pictures are tiny, and more threads only wait for each other.
# worksteal gives each a row of whole files, whose models are then trained in one process only.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal \
          --durations 25

test: check ## check, then run all tests
	@$(PYTEST)

quick: setup ## two tests of every file, for a first answer while working
	@$(PYTEST) --quick 2

check: setup ## lint, format and types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

format: setup ## put the code into the form that check asks for
	@$(VENV)/bin/ruff check --fix --quiet .
	@$(VENV)/bin/ruff format --quiet .

wheel: setup ## build dist/ktb-*.whl
	@$(PIP) wheel --no-deps --wheel-dir dist .
	@ls dist/ktb-*.whl

clean: ## remove the virtual environment, builds and caches; runs/ stays
	rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
