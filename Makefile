# The same targets are used by people and by CI. `make` alone prints this menu.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Containers often set it. Hundreds of processes are started here, and each would compile all of our modules again.
unexport PYTHONDONTWRITEBYTECODE

# Most tests wait for sockets and clocks, so two of them share a core well.
JOBS ?= $(shell $(PYTHON) -c 'import os; print(2 * len(os.sched_getaffinity(0)))' 2>/dev/null || echo 2)
FAST := tests/proxy/core tests/proxy/http1 tests/proxy/olla tests/loadgen/workload tests/loadgen/wire \
	tests/loadgen/campaign/test_schedule.py tests/loadgen/campaign/test_validity.py tests/reports/test_stats.py \
	tests/reports/test_compare.py tests/reports/test_claims.py tests/reports/test_decide.py tests/reports/test_summarise.py

.DEFAULT_GOAL := help
.PHONY: help setup compare rivals clients test test-fast test-matrix test-real mutation check micro gate notebooks clean

help: ## print this menu
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("proxy-engines needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $(READY)

setup: $(READY) ## make the virtual environment in .venv

compare: $(READY) ## set up and run the quick comparison of sherpa, olla and direct; prints the verdict
	$(BIN)/proxy-engines compare --profile quick

rivals: ## LiteLLM and the vLLM and SGLang routers in .rivals, for `compare --targets litellm,vllm-router,sglang-router`
	$(PYTHON) -m venv .rivals
	.rivals/bin/python -m pip install --quiet --disable-pip-version-check -r loadgen/targets/rivals.txt

clients: ## the benchmark client of `proxy-engines verify crosscheck` (aiperf) in .clients
	$(PYTHON) -m venv .clients
	.clients/bin/python -m pip install --quiet --disable-pip-version-check aiperf==0.13.0

test: $(READY) ## set up and run the tests: what may share the cores in parallel, then what needs them alone
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not alone"; code=$$?; $(BIN)/python -m pytest -m alone && exit $$code

test-fast: $(READY) ## the tests of pure code: no sockets, no processes, under a minute
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(FAST)

test-matrix: $(READY) ## the contract suite on the plain loop, with each switch off once, with 2 workers
	$(BIN)/python -m tests.matrix

test-real: $(READY) .real/.ready ## both engines in front of real model servers (llama.cpp, LiteLLM), put into .real; minutes
	$(BIN)/python -m pytest tests/real

.real/.ready: tests/real/requirements.txt
	$(PYTHON) -m venv .real
	.real/bin/python -m pip install --quiet --disable-pip-version-check -r tests/real/requirements.txt
	@touch .real/.ready

mutation: $(READY) ## seed small faults into what decides; the pure tests must notice 90 % (twenty minutes)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check mutmut==3.8.1
	$(BIN)/python -m tests.mutation

check: $(READY) ## lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

micro: $(READY) ## the pyperf suite
	$(BIN)/proxy-engines micro

gate: $(READY) ## performance of HEAD against its parent commit
	$(BIN)/proxy-engines gate --base HEAD^ --head HEAD

notebooks: $(READY) ## execute every notebook from top to bottom
	$(BIN)/python -m pytest tests/test_notebooks.py

clean: ## remove the environment, caches and unpublished runs
	rm -rf $(VENV) build dist mutants *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache reports/runs
