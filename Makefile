# Everything runs in .venv, which the first target that needs it creates.
# Only make, bash and a Python >= 3.10 with the venv module are assumed.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Test files run side by side in so many processes; many of them wait rather than compute.
PROCESSES := 3
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
export HYPOTHESIS_PROFILE := repeat

.DEFAULT_GOAL := help
.PHONY: help demo faults soak test lint format unit packaging browser bench dask-suite docs release clean slow compatibility

help: ## Say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo "No Python >= 3.10 was found; name one: make PYTHON=/path/to/python ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps are older than pyproject.toml when what is installed may be out of date.
$(VENV)/.examples: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) ..."
	@$(PIP) install -e ".[examples]"
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) ..."
	@$(PIP) install -e ".[test,lint]"
	@touch $@ $(VENV)/.examples

demo: $(VENV)/.examples ## Run the examples on an embedded cluster; pictures go to examples/out/
	$(BIN)/python examples/simple_pipeline.py
	$(BIN)/python examples/distributed_pipeline.py
	$(BIN)/python examples/image_processing.py

test: lint packaging unit ## All that CI checks

lint: $(VENV)/.test ## Style, imports and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test ## Put the code into the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

packaging: $(VENV)/.test ## Build the wheel; try it on the oldest and the newest Python there is
	bash .ci/packaging $(BIN)/python ends

compatibility: $(VENV)/.test ## Build the wheel; try it on every Python there is
	bash .ci/packaging $(BIN)/python all

unit: $(VENV)/.test ## Tests, doctests, and the code in the documentation
	$(BIN)/python -m pytest -m "not slow" -n $(PROCESSES) --dist loadfile

slow: $(VENV)/.test ## Tests that take many seconds each: whole examples, benchmarks, crowds of clients
	$(BIN)/python -m pytest -m slow
	HYPOTHESIS_PROFILE=explore HOSTILE_INPUTS=1000 $(BIN)/python -m pytest tests/hostile --timeout 600

browser: $(VENV)/.test ## Try reports and the scheduler's page in Chromium, which must be there
	$(BIN)/python -m pytest tests/visualization/browser_report.py tests/cluster/browser_page.py

bench: $(VENV)/.test ## Compare with stock Dask, side by side (minutes)
	$(BIN)/python -m benchmarks

faults: $(VENV)/.test ## Harm real processes while functions run: one test for each fault
	$(BIN)/python -m pytest tests/cluster/test_faults.py

soak: $(VENV)/.test ## Harm a cluster of real processes while users work on it: SEED=1 SOAK_S=600
	$(BIN)/python -m tests.soak.soak

dask-suite: $(VENV)/.test ## Run distributed's own tests beside handoff: CHECKOUT=folder, TESTS='tests/test_client.py ...'
	@[ -n "$(CHECKOUT)" ] || { echo "Name a checkout of dask/distributed: make dask-suite CHECKOUT=folder" >&2; exit 1; }
	$(BIN)/python tests/dask_suite/compare.py $(CHECKOUT) $(TESTS)

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV) ..."
	@$(PIP) install -e ".[docs]"
	@touch $@

docs: $(VENV)/.docs ## Build the pages of docs/ as a site, into build/site/; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -E -b html docs build/site

release: $(VENV)/.test ## Prepare a release: VERSION=1.2.0
	@$(PIP) install -e ".[release]"
	$(BIN)/python .ci/release.py $(VERSION)

clean: ## Remove what the other targets made
	rm -rf $(VENV) build dist examples/out bench-out .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
