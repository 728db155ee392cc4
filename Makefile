# Every target sets up what it needs: `make demo` and `make test` work on a fresh clone with Python >= 3.11 and make.

VENV   ?= .venv
PYTHON ?= python3
PIP    := $(VENV)/bin/python -m pip --disable-pip-version-check -qq

# What is installed: the releases of requirements/, compared with the hashes there, so that a clone of this commit is set
# up alike at any time. With LATEST=1: the newest releases that pyproject.toml allows.
LOCKS := requirements/build.txt requirements/dev.txt
ifdef LATEST
STAMP := $(VENV)/.ktb-latest
else
STAMP := $(VENV)/.ktb-installed
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow quick check format docs notebooks lock dist clean
.PHONY: release-tools

help: ## list the targets
	@echo "make TARGET; VENV=path: another virtual environment (now: $(VENV)); LATEST=1: not the releases of requirements/"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## create the virtual environment and install ktb into it, once

$(STAMP): pyproject.toml $(LOCKS)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "Python >= 3.11 is needed, %s is %d.%d: set PYTHON=/path/to/python" % (sys.executable, v[0], v[1]))'
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@echo "installing ktb and what it needs into $(VENV) (some 5 GB with PyTorch; a few minutes, once)"
	@rm -f $(VENV)/.ktb-installed $(VENV)/.ktb-latest
ifdef LATEST
	@$(PIP) install --upgrade --upgrade-strategy eager --editable '.[dev]'
else
# First what builds packages: of antlr4-python3-runtime, which Hydra needs, there is only a source package.
	@$(PIP) install --require-hashes --requirement requirements/build.txt
	@$(PIP) install --require-hashes --no-build-isolation --requirement requirements/dev.txt
	@$(PIP) install --no-build-isolation --no-deps --editable .
endif
	@touch $@

demo: setup ## train and test on the embedded synthetic data: no download, 3 to 5 minutes on 2 CPU cores
	@$(VENV)/bin/ktb-train

# A process per core, each with one thread: the tests' pictures are tiny, and more threads only wait for each other.
# worksteal gives each a row of whole files, whose models are then trained in one process only.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal \
          --durations 25

test: check ## check, then the tests: some 8 minutes on 2 cores
	@$(PYTEST) -m 'not slow'

slow: setup ## the slow tests: processes that are killed, exporters, compilers, further cases of what make test tries
	@$(PYTEST) -m slow

quick: setup ## two tests of every file, for a first answer while working
	@$(PYTEST) --quick 2

check: setup ## lint, format and types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

format: setup ## put the code into the form that check asks for
	@$(VENV)/bin/ruff check --fix --quiet .
	@$(VENV)/bin/ruff format --quiet .

docs: setup ## build the documentation site into build/site; a link that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

notebooks: setup ## run the notebooks of docs/ and store what they print and draw
	@$(VENV)/bin/python scripts/notebooks.py

# One file for all Pythons and systems; the header would name the machine's own settings.
UV = $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
UV_TOOLS = $(UV) $(if $(UPGRADE),--upgrade) --constraints requirements/dev.txt

lock: release-tools ## resolve pyproject.toml into requirements/, keeping releases there that still fit; UPGRADE=1: none
	@$(UV) $(if $(UPGRADE),--upgrade) --extra dev --output-file requirements/dev.txt pyproject.toml
	@printf 'editables\nhatchling\nsetuptools\n' | $(UV_TOOLS) --output-file requirements/build.txt -
	@printf 'twine\nuv\n' | $(UV_TOOLS) --output-file requirements/release.txt -

dist: release-tools ## build dist/ktb-*.whl and dist/ktb-*.tar.gz, and check them as a package index would
	@rm -rf dist
	@$(VENV)/bin/python -m hatchling build --directory dist
	@$(VENV)/bin/python -m twine check --strict dist/*

release-tools: setup
	@$(PIP) install --require-hashes --requirement requirements/release.txt

clean: ## remove the virtual environment, builds and caches; runs/ stays
	rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
