# Every target sets itself up; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.headwater-installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint tiny results bench crash clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(STAMP)  ## create .venv with the pinned development versions

demo: $(STAMP)  ## the main job, offline on a CPU; writes demo-out/report.html
	$(BIN)/headwater demo --output demo-out

test: $(STAMP) lint  ## lint, types and the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

results: $(STAMP)  ## the tables of docs/results/main.md again from the embedded model
	$(BIN)/headwater eval run --suite main --output docs/results/main --page docs/results/main.md --page README.md

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)  ## speed beside a plain prefill and eager maps, into benchmarks/results (15 minutes, idle machine)
	$(BIN)/python -m benchmarks.capture_speed --page docs/results/main.md

crash: $(STAMP)  ## kill `index add` and `ask` 50 times at random moments; writes docs/results/crash.md (10 minutes)
	$(BIN)/python -m benchmarks.crash --page docs/results/crash.md

tiny: $(STAMP)  ## train the embedded model again into tiny-run (about three hours on two cores; DATA=folder of raw texts; VARIANT=all: small ones)
ifdef VARIANT
	$(BIN)/python -m recipes.tiny.variants --data "$(DATA)" --output tiny-run/variants --variant "$(VARIANT)" --resume
	$(BIN)/python -m recipes.tiny.compare --models tiny-run/variants --output tiny-run/variants/result.json
else
	$(BIN)/python -m recipes.tiny.train --data "$(DATA)" --output tiny-run/read
	$(BIN)/python -m recipes.tiny.train --data "$(DATA)" --output tiny-run/know --leg remember --start tiny-run/read
	$(BIN)/python -m recipes.tiny.train --data "$(DATA)" --output tiny-run/both --leg settle --start tiny-run/know
	$(BIN)/python -m recipes.tiny.train --data "$(DATA)" --output tiny-run --leg reword --start tiny-run/both
endif

clean:  ## remove the virtual environment and what demo and the tools wrote
	rm -rf $(VENV) demo-out tiny-run .pytest_cache .mypy_cache .ruff_cache .hypothesis
