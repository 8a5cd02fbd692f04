PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODEL := examples/tiny-dsv4-nvfp4
PLAN := plans/demo
PROMPT := Now the word of the LORD came unto

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-gpu lint types golden wheel clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "dsv4c needs Python 3.11 or later; name one: make PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --no-build-isolation -c constraints.txt -e '.[compile,dev]'
	@touch $@

venv: $(STAMP)  ## Install dsv4c and its tools into .venv

demo: $(STAMP)  ## Compile the bundled model and continue a prompt with it
	$(BIN)/dsv4c compile $(MODEL) -o $(PLAN) --target auto
	$(BIN)/dsv4c generate $(PLAN) "$(PROMPT)" --echo

test: lint types  ## Lint, types and every test that needs no GPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not gpu"

test-gpu: $(STAMP)  ## Every test that needs a CUDA device
	$(BIN)/python -m pytest -m gpu

lint: $(STAMP)  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## Check types (pyright, strict)
	$(BIN)/pyright

golden: $(STAMP)  ## Rewrite the golden files from what the code prints now
	$(BIN)/python -m pytest -n 2 -m "not gpu" --update-golden

wheel: $(STAMP)  ## Build a wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w dist .

clean:  ## Remove what the targets made, .venv included
	rm -rf $(VENV) plans build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
