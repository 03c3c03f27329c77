# voicevault: `make demo` and `make test` are all that a newcomer needs; both install into .venv and touch nothing else.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORPORA ?= ../shared/corpora
SOAK ?= 400
# Processes that run the tests; each takes up to 2 GB.
TESTERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo serve test lint format soak bench evaluate clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("voicevault needs Python 3.11 or newer, not " + sys.version.split()[0] + "; set PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# The stamps are older than what they were made from only when that changes: a second call installs nothing.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing voicevault into $(VENV): about 5 GB with PyTorch, some minutes the first time."
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing what tests and trainings need."
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed  ## Enroll the bundled voices, serve, identify and verify over HTTP
	@$(BIN)/voicevault demo

serve: $(VENV)/.installed  ## Start the HTTP service on loopback
	@$(BIN)/voicevault serve

test: lint  ## Lint, types, layering, then all tests
	$(BIN)/python -m pytest --numprocesses $(TESTERS) --dist loadfile

lint: $(VENV)/.installed-dev  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

soak: $(VENV)/.installed-dev  ## The stateful index tests, for long
	VOICEVAULT_SOAK=$(SOAK) $(BIN)/python -m pytest tests/index tests/gallery --timeout 0

bench: $(VENV)/.installed-dev  ## Measure this machine: latency of every stage, HTTP, bulk, search, error rates
	$(BIN)/python -m benchmarks

evaluate: $(VENV)/.installed-dev  ## Error rates of the default model on the evaluation lists in CORPORA
	@for list in librispeech so762; do \
		$(BIN)/python -m train evaluate --model default --trials $(CORPORA)/eval-$$list.trials --audio-root $(CORPORA) || exit 1; \
	done

clean:  ## Remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
