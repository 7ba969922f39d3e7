# Every target installs what it needs. A fresh clone needs only Python 3.11 or newer and cargo.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := $(VENV)/.tools
STAMP := $(VENV)/.installed
RUST := Cargo.toml Cargo.lock cfp_core/Cargo.toml $(shell find cfp_core/src -name '*.rs')

.PHONY: help setup demo test test-fast fuzz rust lint lint-rust lint-python format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## create .venv and install cfp and the development tools in it

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cfp needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(TOOLS): $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

$(STAMP): $(TOOLS) $(RUST)
	$(BIN)/python -m pip install --quiet --editable '.[export,report]'
	touch $@

demo: setup ## run the whole pipeline on a generated defect set
	$(BIN)/cfp demo

# The installation uses one core for minutes, so cargo runs beside it. Cargo must not take its number of threads from make.
test: ## run all checks: Rust tests, format, lint, types, pytest
	$(MAKE) --jobs=2 setup rust lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: setup ## run pytest without the slow tests
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

fuzz: setup ## kill, interrupt and race every command at every write; takes an hour
	rm -rf target/faults
	PYTHONPATH=.:tests $(BIN)/python tests/trust/faults.py target/faults
	rm -rf target/environments
	PYTHONPATH=.:tests $(BIN)/python tests/trust/environments.py target/environments --limit 60
	rm -rf target/reader
	PYTHONPATH=.:tests $(BIN)/python tests/trust/reader.py target/reader
	rm -rf target/fields
	PYTHONPATH=.:tests $(BIN)/python tests/trust/fields.py target/fields --limit 200

# Optimisation takes minutes, and the tests run for seconds; pytest tests the optimised core.
rust: ## run the Rust tests; pytest tests the Python bindings
	MAKEFLAGS= CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 cargo test --release --workspace --quiet --no-default-features

lint: lint-rust lint-python ## check format, lint and types of Rust and Python

lint-rust:
	cargo fmt --all --check
	MAKEFLAGS= cargo clippy --release --workspace --all-targets --quiet -- -D warnings
	MAKEFLAGS= cargo clippy --release --workspace --all-targets --quiet --no-default-features -- -D warnings

lint-python: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup ## format the code and apply automatic fixes
	cargo fmt --all
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove .venv, target and cfp-run
	rm -rf $(VENV) target cfp-run
