# Each target sets itself up: Python 3.10 or newer, pip and make are all it needs.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check check-slow clean

PYTHON ?= python3
PYTEST_ARGS ?=
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
BIN := .venv/bin

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

demo: .venv-demo/ready ## recognise the actions in the bundled clip (small environment, no PyTorch)
	.venv-demo/bin/dvfl-recognize --demo

test: .venv/ready ## run the tests; PYTEST_ARGS="-k sampling" selects some
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: .venv/ready ## lint, formatting, types and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

check-slow: .venv/ready ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

clean: ## remove the environments and what builds and tools leave behind; runs/ stays
	rm -rf .venv .venv-demo build dist dvfl.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.venv-demo/ready: EXTRA := cpu
.venv/ready: EXTRA := dev
.venv/ready .venv-demo/ready: setup.py constraints.txt
	@echo "setting up $(@D) with the extra '$(EXTRA)'"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python $(PIP_INSTALL) --editable '.[$(EXTRA)]'
	@touch $@
