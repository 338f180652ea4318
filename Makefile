# make install | demo | test | check | docs: each creates or updates .venv when it is missing or stale.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
# This file exists when the environment is current: its name holds the hash of all inputs of the environment.
STAMP := $(VENV)/.installed-$(shell cat requirements.txt pyproject.toml Makefile | sha256sum | cut -c1-16)
# Test processes side by side; 0 runs the tests in this one.
WORKERS ?= 2
DEMO := $(if $(CATALOG),--catalog "$(CATALOG)") $(ARGS)

.PHONY: help install demo test check docs lock hooks clean
help:
	@echo "make demo     the whole loop on real components (CATALOG=folder-or-feed for your own products)"
	@echo "make test     all tests, with the real servers"
	@echo "make check    lint, types, import contracts"
	@echo "make docs     the documentation as a site in site/; open site/index.html"
	@echo "make install  the environment in $(VENV) and the servers in the cache"
	@echo "make hooks    run 'make check' before each commit (pre-commit)"
	@echo "make lock     resolve requirements.txt from pyproject.toml"

install: $(STAMP)

$(STAMP): requirements.txt pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v < (3, 14) and f"Sagelift needs Python 3.11, 3.12 or 3.13; {sys.executable} is {v[0]}.{v[1]}. Call: make PYTHON=python3.11")'
	@rm -f $(VENV)/.installed-*
	@$(BIN)/python -m uv --version 2>/dev/null | grep -qF "uv $(UV_VERSION)" || \
		{ rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); }
	@# Compile once here, not in each of the many processes that tests and the stack start.
	$(BIN)/python -m uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.txt
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/sagelift fetch
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/sagelift demo $(DEMO)

# A file's tests stay in one process: they share its servers. The order of the files stays, so that long ones do not
# come last.
test: $(STAMP)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(STAMP)
	@$(BIN)/python docs/generate.py
	@# The theme advertises its successor on every build; docs/decisions says why we stay.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "The documentation is in site/index.html."

hooks: $(STAMP)
	@$(BIN)/pre-commit install

lock: $(STAMP)
	$(BIN)/python -m uv pip compile --quiet --universal --generate-hashes --no-header --extra dev --python-version 3.11 pyproject.toml -o requirements.txt

clean:
	rm -rf $(VENV) .sagelift site
