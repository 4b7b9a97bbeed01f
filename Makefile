# One command each; every target sets up what it needs. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help run test check gate proto lock load picture debian clean
help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

run: $(READY) ## serve KEDA's protocol from the bundled recording, on 127.0.0.1:6000 and :8080
	@$(BIN)/vram-scaler serve

test: $(READY) debian check ## everything: lint, types, import walls, all tests, a real Prometheus included
	@$(BIN)/pytest -n auto

check: $(READY) ## lint, types and import walls only
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

gate: $(READY) ## ours in the closed loop against the kept scores
	@$(BIN)/python -m scaler.simulate.gate

proto: $(VENV)/.locked ## generate the gRPC stubs from protos/
	@$(BIN)/python hatch_build.py

load: $(READY) debian ## the measurements that README quotes
	@$(BIN)/python -m loadtests

picture: $(READY) ## redraw the README's picture from the bundled recording
	@$(BIN)/pip install -q --disable-pip-version-check matplotlib
	@$(BIN)/python docs/picture.py

debian: ## the Debian programs that tests and measurements start: Prometheus, h2load, gcc, Chromium
	@which prometheus h2load gcc chromium chromedriver >/dev/null || \
	  { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends \
	    prometheus nghttp2-client gcc libc6-dev chromium chromium-driver fonts-dejavu-core; }

lock: ## refresh requirements-dev.lock from pyproject.toml (hashes, no addresses)
	@$(PYTHON) -m venv $(VENV)/lock && $(VENV)/lock/bin/pip install -q uv
	@$(VENV)/lock/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --no-header --group dev --extra report pyproject.toml -o requirements-dev.lock

clean: ## remove what the other targets made
	@rm -rf $(VENV) scaler/_pb dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.locked: requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "needs Python 3.11 or newer: make PYTHON=python3.11 (found: $$($(PYTHON) --version))" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked requirements into $(VENV) ..."
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

$(READY): $(VENV)/.locked pyproject.toml hatch_build.py $(wildcard protos/*.proto)
	@$(BIN)/python hatch_build.py
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@
