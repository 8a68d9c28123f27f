# Two commands do everything: `make demo` and `make test`. Both set up what they need in .venv.
PYTHON ?= python3
VENV ?= .venv
WHEEL_VENV ?= .venv-wheel
MINIMUM_VENV ?= .venv-minimum
BIN := $(abspath $(VENV))/bin
SHARED := $(abspath $(or $(FMJAX_SHARED),../shared))
PIP_FLAGS := --quiet --disable-pip-version-check
# a worker that crashed ends the run: pytest-xdist may wait for ever for the files of one that it replaced
PYTEST := python -m pytest -n 2 --dist loadfile --max-worker-restart 0
# compiled programs are kept, so that the second run of the tests need not compile them again
export JAX_COMPILATION_CACHE_DIR ?= $(abspath $(VENV))/jax-cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.1

.PHONY: demo test slow lint types unit wheel minimum reference proxy-runs clean

demo: $(VENV)/.ready
	$(BIN)/fmjax demo

test: lint types unit wheel

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fmjax needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable '.[all]' --group dev
	@touch $@

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/mypy

# Compiling is most of the work of these tests, so XLA is told not to optimise here; the slow ones run as users do.
unit wheel: export XLA_FLAGS ?= --xla_backend_optimization_level=0
unit: $(VENV)/.ready
	$(BIN)/$(PYTEST) -m "not slow"

# What takes minutes: figures on real curves, and twins of fast tests.
slow: $(VENV)/.ready
	$(BIN)/$(PYTEST) -m slow

# What users meet first once more, against the wheel, away from the source tree: is everything packed that is needed?
wheel: $(VENV)/.ready
	rm -rf dist $(WHEEL_VENV)
	$(BIN)/python -m build --quiet --wheel --no-isolation
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python -m pip install $(PIP_FLAGS) --upgrade 'pip>=25.1'
	$(WHEEL_VENV)/bin/python -m pip install $(PIP_FLAGS) "$$(ls dist/*.whl)[all]" --group test
	$(call away,$(WHEEL_VENV),tests/test_cli.py tests/test_folder.py)

# The same tests with every dependency at the floor that pyproject.toml gives.
minimum:
	rm -rf $(MINIMUM_VENV)
	$(PYTHON) -m venv $(MINIMUM_VENV)
	$(MINIMUM_VENV)/bin/python -m pip install $(PIP_FLAGS) --upgrade 'pip>=25.1'
	$(MINIMUM_VENV)/bin/python .ci/floors.py > $(MINIMUM_VENV)/floors.txt
	$(MINIMUM_VENV)/bin/python -m pip install $(PIP_FLAGS) '.[all]' --group test --constraint $(MINIMUM_VENV)/floors.txt
	$(call away,$(MINIMUM_VENV),tests)

# Pages made of the docstrings and the help of every verb; reference/index.html needs no network.
reference: $(VENV)/.ready
	$(BIN)/python .ci/reference.py reference

# Trains the shipped curves anew on all cores; on two, about two hours for `wide` and three for the others together
# (`python -m benchmarks.proxy_runs GRID --plan` measures). Stopped, it goes on where it was when called again.
proxy-runs: $(VENV)/.ready
	$(BIN)/python -m benchmarks.proxy_runs wide --out fmjax/datasets/proxy_runs
	$(BIN)/python -m benchmarks.proxy_runs moe --out fmjax/datasets/proxy_runs/moe
	$(BIN)/python -m benchmarks.proxy_runs batches --out fmjax/datasets/proxy_runs/batches
	$(BIN)/python -m benchmarks.proxy_runs large --out fmjax/datasets/proxy_runs/large

away = rm -rf $(1)/away && mkdir $(1)/away && cp -r tests pyproject.toml $(1)/away \
	&& cd $(1)/away && FMJAX_SHARED=$(SHARED) ../bin/$(PYTEST) -m "not slow" $(2)

clean:
	rm -rf $(VENV) $(WHEEL_VENV) $(MINIMUM_VENV) dist reference .pytest_cache .mypy_cache .ruff_cache
