# `make help` lists the targets. Each one works from a fresh clone.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp-$(shell cat pyproject.toml locks/dev.txt 2>/dev/null | sha256sum | cut -c1-16)
.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}'

.PHONY: setup
setup: $(STAMP) ## Make .venv from the committed lock

$(STAMP): pyproject.toml locks/dev.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(sed -nE 's/^(uv==[^ ]+).*/\1/p' locks/dev.txt)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r locks/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@rm -f $(VENV)/.stamp-* && touch $@

.PHONY: check
check: setup ## Format, lint, types, import contracts, generated files (under a minute)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m wenxin_operator.api.schema --check
	$(BIN)/python -m docs.generate --check
	$(BIN)/python -m monitoring.generate --check
	$(BIN)/python -m wenxin_runtime.server.kserve.protos --check

.PHONY: fmt
fmt: setup ## Format and apply the safe lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: test
test: setup ## Every test that needs no cluster, with coverage
	$(BIN)/pytest -n auto --dist loadgroup --cov --cov-report=term:skip-covered

.PHONY: e2e
e2e: setup ## The user stories on a real cluster (brought up if there is none)
	$(BIN)/python -m e2e.harness test

.PHONY: demo
demo: setup ## From a fresh clone to a streamed answer on a cluster
	$(BIN)/python -m e2e.harness demo

.PHONY: demo-down
demo-down: setup ## Remove what `make demo` made
	$(BIN)/python -m e2e.harness down

.PHONY: crds
crds: setup ## Write crds/ and the chart's copy from the pydantic models
	$(BIN)/python -m wenxin_operator.api.schema

.PHONY: protos
protos: setup ## Write the code of the gRPC messages from their .proto files
	$(BIN)/python -m wenxin_runtime.server.kserve.protos

.PHONY: docs
docs: setup ## Write docs/reference from the code and docs/performance.md from the results of `make bench`
	$(BIN)/python -m docs.generate

.PHONY: dashboards
dashboards: setup ## Write the chart's dashboards, alerts and scrape configuration from monitoring/
	$(BIN)/python -m monitoring.generate

.PHONY: bench
bench: setup ## Measure us and the peers side by side; results go to bench/results
	$(BIN)/python -m bench.cpu_kernels
	$(BIN)/python -m bench.offline
	$(BIN)/python -m bench.fairness
	$(BIN)/python -m bench.serve
	$(BIN)/python -m bench.peers
	$(BIN)/python -m bench.parallel
	$(BIN)/python -m bench.structured
	$(BIN)/python -m bench.answer_cache
	$(BIN)/python -m bench.download
	$(BIN)/python -m bench.reconcile
	$(BIN)/python -m bench.autoscale
	$(BIN)/python -m bench.operator_scale

.PHONY: lock
lock: setup ## Resolve the dependencies anew into locks/
	@for extras in operator runtime,tracing,grpc dev; do \
	  $(BIN)/uv pip compile pyproject.toml $$(printf -- '--extra %s ' $${extras//,/ }) --universal --generate-hashes \
	    --no-header --no-annotate --no-emit-index-url --no-emit-package wenxin-operator --quiet --upgrade \
	    --output-file locks/$${extras%%,*}.txt; done
