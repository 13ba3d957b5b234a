# The two commands a user needs are `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Without which Pythons `make pythons` fails, as in PROMISED='3.13 3.14'; others are left out if they cannot be had.
PROMISED ?=

# How many tests run at a time: most of them wait most of the time.
PROCESSES := $(shell expr $$(nproc) + 4)

.PHONY: demo test programs lint types unit pythons bench screenshots deb deb-raptorq deb-bundled rpm system-packages test-kernel clean

demo: $(VENV)/installed
	$(BIN)/mcastd demo

test: programs lint types unit

# What the tests use beside Python. Without root or apt this names it, and the tests that use it are skipped.
programs:
	@$(PYTHON) packaging/programs.py tests

lint: $(VENV)/installed-dev
	@echo "lint: ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	@echo "types: mypy (a minute, when it has not run before)"
	@$(BIN)/mypy mcastd
	@$(BIN)/mypy --config-file tests/mypy.ini tests

unit: programs $(VENV)/installed-dev system-packages test-kernel
	@echo "tests in network namespaces: pytest (some minutes)"
	@$(BIN)/pytest --numprocesses=$(PROCESSES) --dist=worksteal --ignore=tests/system tests/tunnel tests/net tests  # the longest first
	@echo "tests with systemd, each in a container that boots: pytest (some minutes)"
	@$(BIN)/pytest --numprocesses=2 --dist=worksteal tests/system

# A part of the tests on each supported Python, on the oldest one with the oldest libraries that we take.
pythons: programs $(VENV)/installed-dev
	@$(BIN)/python packaging/pythons.py $(PROMISED)

# Packages, each built in a clean root of its own, into dist/.
deb deb-raptorq deb-bundled rpm:
	@$(PYTHON) packaging/build.py $@

# What tests/system needs: pytest has no network to make it with. Where that is impossible, these tests say why.
system-packages:
	@$(PYTHON) packaging/build.py --for-tests

# A kernel with Linux's own AMT driver, for tests beside it. Where that is impossible, these tests say why.
test-kernel: programs
	@$(PYTHON) packaging/kernel.py

# As root, some 45 minutes; BENCH="--quick --rows raw,send" for less, BENCH=--help for all options.
bench: $(VENV)/installed-dev
	PYTHONPATH=tests:packaging $(BIN)/python -m bench $(BENCH)

# What people see in a browser, as pictures in build/screenshots: by Chromium, which is some 400 MB and so no part of `make test`.
screenshots: $(VENV)/installed-dev
	@$(PYTHON) packaging/programs.py screenshots
	@$(BIN)/pytest tests/gateway/page_in_chromium.py

# `python3 -m venv`, which Ctrl-C ends without a traceback.
MAKE_VENV = $(PYTHON) -c 'import runpy, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); \
  runpy.run_module("venv", run_name="__main__")' $(VENV)

# Both wait for packages to come from PyPI.
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --editable

$(VENV)/installed: pyproject.toml
	@echo "installing mcastd and its Python libraries into $(VENV) (half a minute)"
	@$(MAKE_VENV)
	@$(INSTALL) .
	@touch $@

$(VENV)/installed-dev: pyproject.toml
	@echo "installing mcastd, its Python libraries and what the tests use of Python into $(VENV) (a minute)"
	@$(MAKE_VENV)
	@$(INSTALL) '.[dev,files,tunnels]'
	@touch $(VENV)/installed $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
