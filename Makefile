# `make` lists what there is. Everything that a target needs is set up by the target itself.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BUILD := .build
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
ENGINES ?= podman
PYTEST_ARGS ?=
BENCH ?=
SOAK ?=
export PATH := $(CURDIR)/$(VENV)/bin:$(CURDIR)/$(BUILD)/bin:$(PATH)

.PHONY: help setup engines tools demo image test soak bench bench-docs check gen gen-check schemas cluster-up cluster-test cluster-down fmt lint format-check types proto-lint imports clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) engines tools ## install all that demo and tests need (as root also podman and docker); a second run does nothing

$(READY): requirements.lock pyproject.toml scripts/setup.sh
	@scripts/setup.sh python
	@touch $@

engines: | $(READY)
	@scripts/setup.sh engines

tools: | $(READY)
	@scripts/setup.sh tools

demo: $(READY) $(if $(findstring podman,$(ENGINES)),engines) ## run a pod on a node of its own, look at it from all sides, leave nothing (ENGINES=wasm: a function, without podman)
	@$(PYTHON) -m scripts.demo --engines $(ENGINES)

image: $(READY) engines ## the image that examples/ use, from this machine's busybox
	@$(PYTHON) -m scripts.make_test_image

test: $(READY) engines tools ## all tests; as root or in CI those on podman and docker must run (PYTEST_ARGS="-k …" chooses)
	@scripts/test.sh $(PYTEST_ARGS)

soak: $(READY) engines ## a node's services killed at random, then ten requests at once over docker and podman (SOAK=… SEED=… ROUNDS=… SECONDS=…)
	@$(PYTHON) -m tests.soak $(SOAK) $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SECONDS),--seconds $(SECONDS))

bench: $(READY) engines ## measure, in 8 minutes on a machine that does nothing else; prints the tables of docs/performance.md (BENCH=chain: one)
	@$(PYTHON) -m bench $(BENCH)

bench-docs: $(READY) engines ## measure, and rewrite the tables of docs/performance.md
	@$(PYTHON) -m bench --docs docs/performance.md $(BENCH)

check: lint format-check types proto-lint gen-check imports ## everything that CI checks besides the tests

lint: $(READY) ## ruff: defects and style
	ruff check .

format-check: $(READY)
	ruff format --check .

types: $(READY) ## mypy, strict
	mypy --strict

proto-lint: $(READY) ## buf: the contract's style and format
	buf lint
	buf format -d --exit-code

gen-check: $(READY) ## gen/ is what protos/ say
	@scripts/generate.sh $(BUILD)/gen
	@diff -r -x __pycache__ gen $(BUILD)/gen || { echo "gen/ differs from protos/: run make gen and commit it" >&2; exit 1; }
	@echo "gen/ is up to date"

imports: $(READY) ## import-linter: which way imports may point
	lint-imports

gen: $(READY) ## write gen/ from protos/
	@scripts/generate.sh gen

schemas: $(BUILD)/schemas.ready ## rewrite the Kubernetes schema (fetches 108 MB of its sources once)
	PYTHONPATH=$(BUILD)/schemas $(PYTHON) scripts/kubernetes_schemas.py

$(BUILD)/schemas.ready: pyproject.toml | $(READY)
	@$(PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['dependency-groups']['schemas'])" | \
	  xargs $(PYTHON) -m pip install --quiet --disable-pip-version-check --upgrade --target $(BUILD)/schemas
	@touch $@

fmt: $(READY) ## format code and contract
	ruff check --fix-only --quiet .
	ruff format .
	buf format -w

cluster-up: $(READY) ## a node as containers (compose.yaml), without an image registry too; as root also without a docker
	@scripts/cluster.sh up

cluster-test: $(READY) tools ## call that node from outside, by reflection and from Node.js, and kill its services
	@scripts/cluster.sh test $(PYTEST_ARGS)

cluster-down: ## end that node, and remove all that cluster-up made but the base image's cache
	@scripts/cluster.sh down

clean: ## remove what was built and cached here, the virtual environment too
	rm -rf $(VENV) $(BUILD) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
