# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN ?= runs/demo
REPOSITORY ?= build/demo
ONCE ?=

# Threads that wait should sleep: spinning ones take the CPU from whatever else the machine does.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test test-all lint format reproduce clean

demo: $(READY)
	$(BIN)/shortlist demo --run $(RUN) --repository $(REPOSITORY) $(if $(ONCE),--once)

test: $(READY)
	$(BIN)/pytest -q -m "not slow"

test-all: $(READY)
	$(BIN)/pytest -q

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	sh tests/typecheck.sh $(BIN)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reproduce: $(READY)
	$(BIN)/shortlist reproduce

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("shortlist needs Python 3.11 or 3.12, this is " + sys.version.split()[0]) if not (3, 11) <= sys.version_info[:2] <= (3, 12) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[baselines,dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build runs
