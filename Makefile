# `make demo` and `make test` install what they need first: Python 3.11 to 3.13, git, make and a C compiler are enough.
#   make demo [DATA=folder with images and metadata.csv] [OUT=demo-out]
#   make paper NAME=chambon2022 [DATA=folder] [SIZE=small]
#   make test
#   make fuzz [MINUTES=30] [SEED=0]
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= demo-out
NAME ?= chambon2022
SIZE ?= small
PAPER_OUT ?= paper-out/$(NAME)-$(SIZE)
MINUTES ?= 30
SEED ?= 0
CLUSTER_TESTS ?= tests/cluster
PYTEST := $(BIN)/python -m pytest
# Commands of the clone first: `medsd`, and `ninja`, which DeepSpeed looks for on the PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help install demo paper test test-all test-unit test-integration fuzz programs lint format crds crds-check test-cluster test-gpu test-image base-model

help:
	@echo "make demo [DATA=dir] [OUT=dir]   the whole pipeline on two CPU workers, and one page with its results"
	@echo "make paper NAME=chambon2022 [DATA=dir] [SIZE=small|full]  a paper's experiment (tuning/NAME.steps.yaml), and its page"
	@echo "make test                        lint, types, unit and integration tests"
	@echo "make test-all                    the same, and those that take longest"
	@echo "make test-unit | test-integration | lint | format"
	@echo "make test-unit-3.12 | test-unit-3.13  the unit tests on another Python, in .venv-3.12 or .venv-3.13"
	@echo "make fuzz [MINUTES=30] [SEED=0]  strange inputs to every reader; REPLAY=dir runs one that failed again"
	@echo "make programs                    build Kubernetes, Helm and an S3 server, which some tests need (Go; 20 minutes, once)"
	@echo "make crds | crds-check           write k8s/crds and the chart's copy from the models, or fail where they are stale"
	@echo "make test-cluster                the operator on a real Kubernetes (root; builds the programs first)"
	@echo "make test-gpu                    training on this machine's GPU: precision, synchronisation, CUDA graphs"
	@echo "make test-image                  build the Dockerfile with buildah and try it (root, 25 GB of disk)"
	@echo "make base-model                  pretrain medsd-small again (75 minutes on two cores)"
	@echo "make install [PYTHON=python3.11] only the virtual environment .venv"

install: $(VENV)/.installed

$(VENV)/.installed: uv.lock pyproject.toml scripts/install
	@PYTHON="$(PYTHON)" VENV="$(VENV)" scripts/install

demo: install
	$(BIN)/medsd demo $(if $(DATA),--data "$(DATA)") --out "$(OUT)"

# Goes on where an earlier call stopped, and does nothing where it is finished.
paper: install
	$(BIN)/medsd paper "tuning/$(NAME).steps.yaml" --out "$(PAPER_OUT)" --size "$(SIZE)" $(if $(DATA),--data "$(DATA)")

test: lint
	$(BIN)/python scripts/run_tests.py

test-all: lint
	$(BIN)/python scripts/run_tests.py --all

# Two processes; a file's tests stay in one, which makes their fixtures once.
test-unit: install
	$(PYTEST) tests/unit -n 2 --dist loadfile

# On another Python, in an environment of its own.
test-unit-3.%:
	python=$$(python3 tests/pythons.py 3.$*) && $(MAKE) test-unit VENV=.venv-3.$* PYTHON="$$python"

test-integration: install
	$(PYTEST) tests/integration

fuzz: install
	PYTHONPATH=.:tests $(BIN)/python -m fuzz $(if $(REPLAY),--replay "$(REPLAY)",--minutes $(MINUTES) --seed $(SEED))

programs:
	tests/cluster/build.sh

test-cluster: install
	$(PYTEST) $(CLUSTER_TESTS)

test-gpu: install
	$(PYTEST) tests/gpu

lint: install crds-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

crds: install
	$(BIN)/python -m medsd_ray.spec.crds
	$(BIN)/python scripts/chart_schema.py

crds-check: install
	$(BIN)/python -m medsd_ray.spec.crds --check
	$(BIN)/python scripts/chart_schema.py --check

base-model: install
	$(BIN)/python -m medsd_ray.base_model.pretrain

test-image:
	tests/cluster/image.sh
