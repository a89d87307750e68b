# `make` alone lists the targets. Needs Python >= 3.10, git and make; all else is installed into this folder.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
# Caches stay in this folder too: nobody's home is written to.
export UV_CACHE_DIR := $(CURDIR)/.cache/uv
export PIP_NO_CACHE_DIR := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# One copy on disk for the cache and all environments: they are in this folder, on one file system.
export UV_LINK_MODE := hardlink
# As pip does: without, each start of a process compiles anew wherever PYTHONDONTWRITEBYTECODE is set.
export UV_COMPILE_BYTECODE := 1
UV := .venv-uv/bin/uv
# The libraries call home, and DataHub's CLI writes to ~, unless told otherwise.
QUIET := HOME=$(CURDIR)/.home DATAHUB_TELEMETRY_ENABLED=false MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 18

.venv-uv/done: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed: make PYTHON=python3.11 ..." if sys.version_info < (3, 10) else 0)'
	@mkdir -p .home
	HOME=$(CURDIR)/.home $(PYTHON) -m venv --clear .venv-uv
	HOME=$(CURDIR)/.home .venv-uv/bin/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	@touch $@

.venv/done: requirements/dev.txt pyproject.toml .venv-uv/done
	$(UV) venv --quiet --clear --python .venv-uv/bin/python .venv
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	$(BIN)/python -m compileall -q datahub_mlflow_source
	@mkdir -p .home
	@touch $@

# Environments of their own: .venv-builtin, .venv-server-2.10, .venv-server-2.22, .venv-oldest, .venv-plugins, .venv-connectors
.venv-%/done: requirements/%.txt .venv-uv/done
	$(UV) venv --quiet --clear --python .venv-uv/bin/python .venv-$*
	$(UV) pip install --quiet --python .venv-$*/bin/python --require-hashes -r requirements/$*.txt
	@touch $@

.PHONY: env
env: .venv/done  ## build the environment in .venv

.PHONY: check
check: .venv/done  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: unit
unit: .venv/done  ## the fast tests only
	$(QUIET) $(BIN)/pytest tests/unit

.PHONY: test
test: .venv/done .venv-builtin/done check  ## everything: checks, then the whole suite on real servers
	$(QUIET) $(BIN)/pytest -n 2 --dist loadfile --cov --cov-report=term -m "not matrix"

.PHONY: test-matrix
test-matrix: .venv/done .venv-server-2.10/done .venv-server-2.22/done .venv-plugins/done .venv-connectors/done  ## against MLflow 2.10 and 2.22, and what DataHub's plugins and connectors call things
	$(QUIET) $(BIN)/pytest -m matrix

.PHONY: test-oldest
test-oldest: .venv/done .venv-oldest/done  ## with the oldest release of every dependency that pyproject.toml allows
	$(UV) pip install --quiet --python .venv-oldest/bin/python --no-deps --editable .
	$(QUIET) SERVER_PYTHON=$(CURDIR)/$(BIN)/python .venv-oldest/bin/pytest -p no:cacheprovider -W "ignore:pkg_resources is deprecated" -m "not builtin and not matrix" \
	  --ignore tests/unit/test_docs.py --ignore tests/unit/test_schemas.py tests/unit tests/integration/test_removal.py tests/integration/test_bad_input.py

.PHONY: demo
demo: .venv/done  ## a real MLflow server, filled by real training, ingested and shown as a tree
	$(QUIET) $(BIN)/python -m demo

.PHONY: try
try: .venv/done  ## the MLflow of MLFLOW_TRACKING_URI into a catalog in one file, .try/datahub.db, shown as a tree
	@mkdir -p .try
	$(QUIET) DEMO_CATALOG=$(CURDIR)/.try/datahub.db $(BIN)/datahub ingest -c recipes/demo.yml
	$(QUIET) $(BIN)/python -m demo .try/datahub.db

.PHONY: benchmark
benchmark: .venv/done .venv-builtin/done  ## ours against the built-in and the framework's ceiling
	$(QUIET) $(BIN)/python -m benchmarks

.PHONY: benchmark-scale
benchmark-scale: .venv/done .venv-builtin/done  ## MLflow's database read beside all other ways, and what more runs cost
	$(QUIET) $(BIN)/python -m benchmarks.scale

.PHONY: benchmark-files
benchmark-files: .venv/done  ## model files behind MLflow's artifact proxy, one by one and by ours
	$(QUIET) $(BIN)/python -m benchmarks.files

.PHONY: docs
docs: .venv/done  ## renew the generated reference and the recipe's JSON schema
	$(QUIET) $(BIN)/python -m docs.generate

.PHONY: dist
dist: .venv/done  ## wheel and source distribution into dist/
	$(QUIET) $(BIN)/python -m build --no-isolation --outdir dist .

.PHONY: lock
lock: .venv-uv/done  ## renew the lock files in requirements/
	for f in uv "dev pyproject.toml" builtin server-2.10 server-2.22 plugins connectors "oldest pyproject.toml --resolution=lowest-direct"; do \
	  set -- $$f; \
	  $(UV) pip compile --quiet --upgrade --universal --python-version 3.10 --generate-hashes --no-annotate \
	    --custom-compile-command "make lock" requirements/$$1.in $${2:-} $${3:-} -o requirements/$$1.txt; \
	done

.PHONY: clean
clean:  ## remove everything that was built here
	rm -rf .venv* .cache .home .demo .try .bench dist build .pytest_cache .mypy_cache .ruff_cache .coverage*
