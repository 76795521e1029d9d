# Two commands: `make quickstart` (the main job) and `make test`. Both make .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
CHECKED := src tests scripts benchmarks

.PHONY: quickstart test check help
help:
	@echo "make quickstart   make .venv, install, train five arms from the embedded base, write runs/quickstart/report.html"
	@echo "make test         all tests (minutes)"
	@echo "make check        format, lint, types, import order, unit and numerics tests"

$(STAMP): pyproject.toml constraints.txt
	@echo "== environment: .venv (once; a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

quickstart: $(STAMP)
	@echo "== quickstart: dense base -> upcycled arms -> tables and runs/quickstart/report.html"
	$(BIN)/moe-emergence quickstart $(ARGS)

test: check
	@echo "== integration, reliability and browser tests"
	$(BIN)/python -m pytest -n 2 tests/integration tests/reliability tests/browser

check: $(STAMP)
	@echo "== format, lint, types, import order"
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/mypy
	$(BIN)/lint-imports
	@echo "== unit and numerics tests"
	$(BIN)/python -m pytest -n 2 tests/unit tests/numerics
