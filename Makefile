# `make demo` and `make test` are all a new user needs; both make .venv on the first call.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test faults mutants lint clean

demo: .venv/installed
	$(BIN)/gapless reproduce demo --output runs/demo

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Every kill point, 30,000 examples of each kind of input: hours.
faults: .venv/installed-dev
	GAPLESS_FAULTS=full GAPLESS_FAULTS_COUNTS=bench/results/faults.json \
	$(BIN)/python -m pytest tests/faults -o faulthandler_timeout=36000

# Changes lines of a room at random and asks the tests; about half a minute for each change.
ROOM ?= eval
NUMBER ?= 100
SEED ?= 0
mutants: .venv/installed-dev
	$(BIN)/python -m tests.mutants $(ROOM) --number=$(NUMBER) --seed=$(SEED)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: setup.cfg pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --progress-bar on -e .
	touch $@

.venv/installed-dev: setup.cfg pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --progress-bar on -e ".[dev]"
	touch $@ .venv/installed

clean:
	rm -rf .venv build *.egg-info
