# Two commands: `make run` serves the page, `make test` runs the tests. Both first set up .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A smaller download without CUDA: make run TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# Flags for app.py: make run ARGS="--share"; for bench/serve.py: make bench ARGS="--rounds 5"
ARGS ?=
# All tests, slow ones included, as in CI: make test ALL=1
ALL ?= $(CI)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test vllm lint format bench clean
.DEFAULT_GOAL := run

run: $(VENV)/.installed
	@$(BIN)/python app.py $(ARGS)

test: $(VENV)/.installed-dev
	@scripts/install-chromium
	@scripts/install-postgresql
	@scripts/install-nginx
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder \
		$(if $(ALL)$(TESTS),,-m "not slow") $(TESTS)

# vLLM for the tests that need it and are skipped without it: 3.4 GB in the cache folder, once.
vllm:
	@PYTHON=$(PYTHON) scripts/install-vllm

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile deploy/router/Dockerfile

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-bench
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/serve.py $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: pass one with PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "The venv module is missing: sudo apt-get install python3-venv" >&2; exit 1; }

# Only torch comes from TORCH_INDEX; all other packages come from the default index.
$(VENV)/.installed: requirements.txt | $(BIN)/python
	@echo "Installing the requirements into $(VENV) (once; some minutes) …"
	@$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) "$$(grep '^torch==' requirements.txt)",true)
	@$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@echo "Installing the development tools into $(VENV) (once) …"
	@$(PIP) -r requirements-dev.txt
	@touch $@

$(VENV)/.installed-bench: requirements-bench.txt $(VENV)/.installed
	@echo "Installing what is measured against into $(VENV) (once) …"
	@$(PIP) -r requirements-bench.txt
	@touch $@
