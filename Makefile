# Every target installs what it needs into .venv first, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test lint docs sanitize bench performance clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/'

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev,docs]"
	touch $@

demo: $(BIN)/.installed  ## train on 40 people's faces with and without MC-Loss, draw the channels (ARGS="--help")
	$(BIN)/python -m reference.demo $(ARGS)

test: $(BIN)/.installed  ## run every test (ARGS="-k mask")
	$(BIN)/python -m pytest $(ARGS)

lint: $(BIN)/.installed  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(BIN)/.installed  ## build the site of docs/ into build/site; a dead link or any other warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

sanitize: $(BIN)/.installed  ## look for memory errors and races in the compiled kernels, on the CPU
	.ci/sanitize $(ARGS)

bench: $(BIN)/.installed  ## time the loss on this machine against everyone else, in a few minutes (ARGS="--help")
	$(BIN)/python -m bench run $(ARGS)

performance: $(BIN)/.installed  ## measure all shapes on this machine, redraw the figures and tables of docs/performance.md
	$(BIN)/python -m bench run --full --output bench/results $(ARGS)
	$(BIN)/python -m bench plot
	$(BIN)/python -m bench page

clean:  ## remove the environment and everything that was built or trained
	rm -rf .venv runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
