# The commands of the project; each sets up what it needs in .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Versions are exact and complete, so pip has nothing to resolve.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
DEMO := runs/demo

.PHONY: demo test test-slow check lint clean

demo: $(VENV)/.demo  ## the main job: prepare, train, evaluate, export (under ten minutes)
	$(BIN)/python -m data_prep.run --config=configs/demo.py --workdir=$(DEMO) $(FLAGS)
	$(BIN)/python -m ldx.train --config=configs/demo.py --workdir=$(DEMO) $(FLAGS)
	$(BIN)/python -m ldx.export --workdir=$(DEMO) --output=$(DEMO)/export
	@cat $(DEMO)/report.txt
	@echo 'Try it: $(BIN)/python -m ldx.search --model=$(DEMO)/export --corpus=$(DEMO)/dataset "solve a banded linear system"'

test: $(VENV)/.test  ## the default tests
	$(BIN)/python -m pytest

test-slow: $(VENV)/.test  ## the tests that take minutes: real models on real collections
	$(BIN)/python -m pytest -m slow

check: lint test  ## everything: lint, format, types, tests

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy ldx data_prep configs

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: requirements/demo.txt pyproject.toml | $(BIN)/python
	$(INSTALL) -r requirements/demo.txt
	$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: requirements/test.txt $(VENV)/.demo
	$(INSTALL) -r requirements/test.txt
	@touch $@
