# Every target first makes the virtual environment, if it is missing or out of date.
#
#   make train CONFIG=configs/half_cheetah_velocity.yaml ARGS="--seed 3"
#   make test TESTS=tests/core
#
# Without a GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu avoids the CUDA libraries.

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/point_navigation.yaml
ARGS ?=
TESTS ?= tests
TORCH_INDEX ?=

STAMP := $(VENV)/.installed
PIP := $(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: help install train test lint docs check clean

help:  ## this list (the default)
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

install: $(STAMP)  ## make the virtual environment, nothing else

train: $(STAMP)  ## meta-train CONFIG; ARGS are handed on
	$(VENV)/bin/python scripts/train.py $(if $(findstring --resume,$(ARGS)),,--config $(CONFIG)) $(ARGS)

test: $(STAMP)  ## run the tests, or those in TESTS
	$(VENV)/bin/python -m pytest -n auto --dist worksteal $(TESTS)

lint: $(STAMP)  ## ruff and mypy
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

docs: $(STAMP)  ## build the documentation in site/
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

check: lint test  ## all that CI checks: lint, then test

clean:  ## remove the virtual environment, caches and built packages; keeps runs/
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip builds metarl in an environment of its own, which -c does not reach: pip before 25.3 reads
# the first of these there, later versions the second.
$(STAMP): export PIP_CONSTRAINT := constraints.txt
$(STAMP): export PIP_BUILD_CONSTRAINT := constraints.txt

# The stamp goes first and comes last, so that an install cut short is never taken for a whole one.
# --no-deps: the torch index has other versions of torch's dependencies.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'metarl needs Python 3.11 or newer: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'Python has no venv module; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	rm -f $@
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) --no-deps --index-url $(TORCH_INDEX) torch)
	$(PIP) -e '.[dev]'
	touch $@
