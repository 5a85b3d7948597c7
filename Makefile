# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
RUN ?= runs/demo
REPOSITORY ?= build/demo
ONCE ?=

# Threads that wait should sleep: spinning ones take the CPU from whatever else the machine does.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test test-all lint format reproduce bench kernels-report bench-gpu clean

demo: $(READY)
	$(BIN)/shortlist demo --run $(RUN) --repository $(REPOSITORY) $(if $(ONCE),--once)

test: $(DEV)
	$(BIN)/pytest -q -m "not slow"

test-all: $(DEV)
	$(BIN)/pytest -q

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	sh tests/typecheck.sh $(BIN)

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reproduce: $(READY)
	$(BIN)/shortlist reproduce

# Rivals on one thread, interleaved: the ratios are what counts.
bench: $(DEV)
	$(BIN)/shortlist bench kernels

# What the CUDA sources compile to, without a GPU, and the time that a GPU should take.
kernels-report: $(DEV)
	$(BIN)/python -m shortlist.kernels.report

# On a machine with an NVIDIA GPU.
bench-gpu: $(DEV)
	$(INSTALL) '.[gpu]'
	$(BIN)/python -m shortlist.kernels.bench_gpu

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("shortlist needs Python 3.11 or 3.12, this is " + sys.version.split()[0]) if not (3, 11) <= sys.version_info[:2] <= (3, 12) else None'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[baselines]'
	touch $(READY)

$(DEV): $(READY)
	$(INSTALL) '.[baselines,bench,cuda,dev,rtx]'
	touch $(DEV)

clean:
	rm -rf $(VENV) build runs
