# Two commands do all the set-up: `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= python3
BIN := .venv/bin
UV := VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv
LOCK = $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes
IMAGES ?=
ONCE ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test soak check lint types contracts proto proto-check triton lock clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed ## Make .venv with everything that training, serving and the tests need.

.venv/installed: requirements/uv.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Roost needs Python 3.11 or newer: make PYTHON=/path/to/it")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --require-hashes -r requirements/uv.txt
	$(UV) pip install -q --require-hashes -r requirements/dev.txt
	$(UV) pip install -q --no-deps --editable .
	@touch $@

demo: .venv/installed ## Train, export, cluster, serve, index and search. IMAGES=folder for your own; ONCE=1 checks it and exits.
	@$(BIN)/python examples/demo.py $(if $(IMAGES),--images "$(IMAGES)") $(if $(ONCE),--once)

test: .venv/installed ## Run the test suite.
	$(BIN)/python -m pytest

soak: .venv/installed .triton/installed ## Run the tests of reliability in their long form; figures go to benchmarks/reliability.
	$(BIN)/python -m pytest --soak tests/serving/reliability

check: lint types contracts proto-check test ## Everything that CI runs.

lint: .venv/installed ## Look for faults and untidy code.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed ## Check types.
	$(BIN)/pyright

contracts: .venv/installed ## Check who imports whom.
	$(BIN)/lint-imports

proto: .venv/installed ## Lint the protos and generate the code beside them.
	$(BIN)/python -m roost.v1.generate

proto-check: .venv/installed ## Lint the protos and compare the code beside them.
	$(BIN)/python -m roost.v1.generate --check

triton: .triton/installed ## Make .triton, a real Triton server for the tests that need one.

.triton/installed: .venv/installed requirements/triton.txt
	$(BIN)/uv venv -q --clear --python $(BIN)/python .triton
	VIRTUAL_ENV=$(CURDIR)/.triton $(BIN)/uv pip install -q --no-deps --require-hashes -r requirements/triton.txt
	@touch $@

lock: .venv/installed ## Pin the dependencies again, with hashes.
	for part in uv build; do $(LOCK) requirements/$$part.in -o requirements/$$part.txt; done
	$(LOCK) --no-deps requirements/triton.in -o requirements/triton.txt
	for extra in serving serving-gpu openvino; do $(LOCK) --extra $$extra --extra tracing pyproject.toml -o requirements/$$extra.txt; done
	$(LOCK) --extra training pyproject.toml -o requirements/training.txt
	$(LOCK) --extra training --extra serving --extra openvino --extra tracing --extra index --group dev pyproject.toml -o requirements/dev.txt

clean: ## Remove what was installed and built; data, runs and models stay.
	rm -rf .venv .triton .peers dist build .pytest_cache .ruff_cache
