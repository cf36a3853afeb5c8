# `make demo` and `make test` do all set-up themselves; `make` lists what there is.
PYTHON ?= python3
BIN := .venv/bin
TEST_PROCESSES ?= 3

.PHONY: help setup demo test test-long lint format

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make setup    Debian packages, .venv with pinned packages, FFCV compiled; seconds when it is all there
setup:
	@PYTHON="$(PYTHON)" scripts/setup.sh

## make demo     sweep over methods, time steps, thresholds and seeds on real handwritten digits, with its table
demo: setup
	@$(BIN)/harness sweep configs/digits.yaml --set results=results/demo

## make test     lint, types and all tests but the long ones, in TEST_PROCESSES=3 processes
test: setup lint
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m "not long"

## make test-long  nodes and random processes killed for minutes
test-long: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m long

## make lint     ruff and mypy
lint:
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

## make format   let ruff format the code
format:
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .
