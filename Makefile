# Everything a developer does with Tokentill. `make help` lists the targets.
#
# Needs: make and Python 3.11 or newer. All else comes from the hash-locked files in requirements/.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV_VERSION := 0.13.9
# One test process more than two cores, as tests mostly wait for servers. Each process has its own stores.
TEST_PROCESSES ?= 3

.PHONY: help install up test test-server test-clients chaos chaos-short screenshots bench check lint format lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## create .venv from the lock files (done by the others when needed)

$(STAMP): requirements/dev.lock requirements/servers.lock requirements/install.sh
	@sh requirements/install.sh $(VENV)
	@echo "$(CURDIR)" > $@

# Install again if the clone was moved or copied together with its .venv, whose scripts contain the old path.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

up: $(STAMP) ## run the whole stack here: Postgres, Redis, web, worker, beat, flower
	@exec $(BIN)/python -m stack up

SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

test: $(STAMP) ## run every test, the server's and each client's side by side
	@echo "eleven to thirteen minutes; the output of each part comes when it is done"
	@$(MAKE) --no-print-directory -j3 $(SYNC) test-server test-client-python test-client-typescript

test-server: $(STAMP) ## run the server's tests, on real Postgres, Redis and worker processes
	$(BIN)/python -m pytest -n $(TEST_PROCESSES)

test-clients: test-client-python test-client-typescript ## run the client libraries' tests against the real stack

# The parts of test-clients.
.PHONY: test-client-python test-client-typescript
test-client-python: $(STAMP)
	@CLIENT_PYTHON=$(CURDIR)/$(BIN)/python sh clients/python/scripts/check
	@CLIENT_PYTHON=$(CURDIR)/$(BIN)/python sh clients/litellm/scripts/check

test-client-typescript: $(STAMP)
	@if command -v npm >/dev/null; then cd clients/typescript && npm ci --silent && npm test && npm run --silent smoke; \
	else echo "TypeScript client: not tested, as Node.js isn't installed"; fi

chaos: $(STAMP) ## break everything a hundred times under load and audit every micro-token (about twenty minutes)
	$(BIN)/python -m tests.faults.chaos

chaos-short: $(STAMP) ## the same, each fault once, in three to four minutes
	$(BIN)/python -m tests.faults.chaos --short

screenshots: $(STAMP) ## take the pictures of the console's pages in docs/images/console anew
	$(BIN)/python -m pytest tests/browser/test_console_pages.py --screenshots=docs/images/console

bench: $(STAMP) ## measure what calls and settlement cost, to the same work done the plain way (five minutes)
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
	rm -rf $(VENV) clients/python/.venv clients/python/.venv-openai1 clients/litellm/.venv clients/typescript/node_modules clients/typescript/test/node/node_modules build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
