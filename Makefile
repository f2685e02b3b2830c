# Everything a developer does with Tokentill. `make help` lists the targets.
#
# Needs: make and Python 3.11 or newer. All else comes from the hash-locked files in requirements/.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := app worker stack migrations tests
UV_VERSION := 0.13.9

.PHONY: help install up test bench check lint format lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## create .venv from the lock files (done by the others when needed)

$(STAMP): requirements/dev.lock requirements/servers.lock requirements/install.sh
	@sh requirements/install.sh $(VENV)
	@echo "$(CURDIR)" > $@

# A clone that was moved or copied together with its .venv installs again: the scripts in there hold the old path.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

up: $(STAMP) ## run the whole stack here: Postgres, Redis, web, worker, beat, flower
	@exec $(BIN)/python -m stack up

test: $(STAMP) ## run every test
	$(BIN)/python -m pytest

bench: $(STAMP) ## measure calls and settlement on this machine (two to four minutes)
	$(BIN)/python -m benchmarks

check: lint test ## what has to pass before a change goes in: lint, types, import contracts, tests

lint: $(STAMP) ## formatting, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## format the code and apply safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## resolve pyproject.toml into requirements/*.lock again (newest versions it allows)
	@sh requirements/lock.sh $(UV_VERSION)

clean: ## remove the venv, caches and build output; keeps .data
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
