# The two commands a user needs are `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types unit bench deb deb-bundled rpm system-packages clean

demo: $(VENV)/installed
	$(BIN)/mcastd demo

test: lint types unit

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy mcastd

unit: $(VENV)/installed-dev system-packages
	$(BIN)/pytest --numprocesses=3 --ignore=tests/system
	$(BIN)/pytest --numprocesses=2 tests/system

# Packages, each built in a clean root of its own, into dist/.
deb deb-bundled rpm:
	$(PYTHON) packaging/build.py $@

# What tests/system needs: pytest has no network to make it with. Where that is impossible, these tests say why.
system-packages:
	$(PYTHON) packaging/build.py --for-tests

# As root, some ten minutes; BENCH="--quick --rows raw,send" for less, BENCH=--help for all options.
bench: $(VENV)/installed
	PYTHONPATH=tests $(BIN)/python -m bench $(BENCH)

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(VENV)/installed $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
