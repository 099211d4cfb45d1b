# Every target installs what it needs into .venv first, once.
PYTHON ?= python3
BIN := .venv/bin
FAST := tests/package/test_groups.py tests/package/test_loss.py tests/package/test_official.py tests/reference/test_formulas.py \
	'tests/package/test_kernels.py::test_kinds_of_features[contiguous-relu-float32]' \
	'tests/package/test_kernels.py::test_kinds_of_features[channels_last-relu-float32]'

.PHONY: help demo test test-fast lint docs package compat hooks browser sanitize mutants bench performance clean

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

$(BIN)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed: make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"  # the first with --group
	$(BIN)/python -m pip install --quiet --editable . --group dev --group docs
	touch $@

demo: $(BIN)/.installed  ## tell 40 typefaces apart with and without MC-Loss, draw the channels (ARGS="--help")
	$(BIN)/python -m reference demo $(ARGS)

test: $(BIN)/.installed  ## run every test, on up to 8 cores (ARGS="-k mask"; ARGS=--cov lists what none of them runs)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal $(ARGS)

test-fast: $(BIN)/.installed  ## is the loss right? the formula, the oracle and the published code agree, in seconds
	$(BIN)/python -m pytest $(FAST) $(ARGS)

lint: $(BIN)/.installed  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(BIN)/.installed  ## build the site of docs/ into build/site; a dead link or any other warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	$(BIN)/python .ci/links.py

package: $(BIN)/.installed  ## build the wheel and the sdist, use them with and without triton
	$(BIN)/python .ci/package.py

compat: $(BIN)/.installed  ## run the tests on the oldest and the newest versions, for docs/promises.md
	$(BIN)/python .ci/compat.py

hooks: $(BIN)/.installed  ## check formatting, lint and types before each commit
	$(BIN)/pre-commit install

browser: $(BIN)/.installed  ## test the page to explore channels in Debian's chromium (apt install chromium chromium-driver)
	REQUIRE_BROWSER=1 $(BIN)/python -m pytest tests/reference/test_explorer.py $(ARGS)

sanitize: $(BIN)/.installed  ## look for memory errors and races in the compiled kernels, on the CPU
	.ci/sanitize $(ARGS)

mutants: $(BIN)/.installed  ## put faults into the package, one at a time: does a test fail for each? (ARGS="--only loss.py")
	$(BIN)/python .ci/mutants.py $(ARGS)

bench: $(BIN)/.installed  ## time the loss on this machine: the rows of the README's figure (ARGS="--help")
	$(BIN)/python -m bench run --compiled --modes both $(ARGS)

performance: $(BIN)/.installed  ## measure all shapes on this machine, redraw the figures and tables of the pages
	$(BIN)/python -m bench run --full --modes both --output bench/results $(ARGS)
	$(BIN)/python -m bench run --full --modes both --compiled --cases CUB --no-sweeps --output bench/results $(ARGS)
	$(BIN)/python -m bench report

clean:  ## remove the environment and everything that was built or trained
	rm -rf .venv runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
