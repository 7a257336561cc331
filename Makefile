# Every target does its own set-up: a fresh clone needs Python 3.11+ with pip, and make, nothing else.

PYTHON ?= python3
EXTRAS ?= test,lint,docs,gguf,classification,translation,vision,detection,search,decision,inspect,optimizers,tune,tensorboard
VENV := .venv
BIN := $(VENV)/bin
COMMA := ,
STAMP := $(VENV)/.installed-$(subst $(COMMA),-,$(EXTRAS))

.DEFAULT_GOAL := help
.PHONY: help install demo test lint docs benchmark clean

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## .venv with danlu and all that its tests need (minutes once, then nothing)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else \
		f"danlu needs Python 3.11 or newer and {sys.executable} is {v[0]}.{v[1]}. Name another: make install PYTHON=python3.12")'
	@echo "Installing into $(VENV); this takes some minutes, once."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@

demo: install  ## trains a small GPT on Python source for two minutes and shows what it learnt
	@$(BIN)/danlu train recipes/python-gpt.yaml

test: lint docs  ## everything that must pass: lint, types, import rules, docs, tests
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

lint: install  ## style, types, and which folder may import which
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

docs: install  ## the documentation, into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

benchmark: install  ## what is measured rather than tested: slow, wants a quiet machine
	@OMP_NUM_THREADS=1 $(BIN)/pytest -m slow
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## removes what was built, not what was trained
	rm -rf $(VENV) site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
