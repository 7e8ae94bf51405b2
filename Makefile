# Everything a person does with a checkout; `make` alone lists it.
#
# Needs make and Python 3.11 or newer with its venv module (Debian: python3 python3-venv). uv is used
# where it is installed: it only makes the set-up faster. Nothing outside this folder is changed.

PYTHON ?= python3
UV ?= $(shell command -v uv 2>/dev/null)
TESTS ?= tests
PYTEST_ARGS ?= -n 2 --dist loadgroup

# python3 gets .venv, any other interpreter a .venv of its own, so that CI can keep two beside each other.
PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(PYTHON_VERSION))
BIN := $(VENV)/bin
# The version is part of the stamp: a python3 that moved on gets a new environment.
RUN := $(VENV)/.installed-$(PYTHON_VERSION)
DEV := $(VENV)/.installed-dev-$(PYTHON_VERSION)

ifneq ($(UV),)
INSTALL = $(UV) pip install --quiet --python $(BIN)/python
MAKE_VENV = $(UV) venv --quiet --no-project --python $(PYTHON)
else
INSTALL = $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-input
MAKE_VENV = $(PYTHON) -m venv
endif

.PHONY: help demo test lint types format bench baseline check lock clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(RUN) ## place a sample call through the gateway, without any account
	$(BIN)/gateway demo $(DEMO_ARGS)

test: $(DEV) ## run the tests; TESTS=tests/audio runs a part of them
	$(BIN)/python -m pytest $(PYTEST_ARGS) --benchmark-disable --ignore=tests/benchmarks $(TESTS)

lint: $(DEV) ## check style and layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV) ## check types
	$(BIN)/mypy

format: $(DEV) ## lay the code out, mend what can be mended
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(DEV) ## measure what a frame costs; fails where it costs 10 % more than it did
	$(BIN)/python -m pytest tests/benchmarks

baseline: $(DEV) ## take what a frame costs now as what it may cost
	$(BIN)/python -m tests.benchmarks.rewrite_baseline

check: lint types test ## all that CI checks, on one Python

lock: ## write the lock files anew; LOCK_ARGS=--upgrade takes newer versions
	@.ci/lock $(LOCK_ARGS)

clean: ## remove what the targets above made, the test rig's cache included
	rm -rf .venv .venv-* .cache build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	rm -f gateway/audio/_native.*.so
	find gateway tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN): requirements.lock pyproject.toml gateway/audio/_native.c
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed. Debian: apt-get install python3 python3-venv. Another interpreter: make PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) does not run or is too old (found: $(or $(PYTHON_VERSION),nothing)); the gateway needs Python 3.11 or newer. Another interpreter: make PYTHON=python3.13" >&2; exit 1; }
	@$(if $(UV),:,$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null) || { echo "$(PYTHON) has no venv module. Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) (once) ..."
	@$(BIN)/python -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(PYTHON_VERSION)")' 2>/dev/null || { rm -rf $(VENV); $(MAKE_VENV) $(VENV); }
	@$(INSTALL) --require-hashes -r requirements.lock
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): $(RUN) requirements-dev.lock
	@echo "Adding what tests and checks need (once) ..."
	@$(INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@
