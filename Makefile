.DEFAULT_GOAL := help
.PHONY: help setup run test fidelity chaos fuzz check audit sbom clean openapi asyncapi nats-conf bench train-shapes evaluate-shapes samples compose-up compose-down compose-secrets compose-config image-sizes k8s-render prometheus-rule

PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?= -n 2
K8S_OVERLAY ?= production
SECRETS := SECRET_KEY MINIO_ACCESS_KEY MINIO_SECRET_KEY GRAFANA_ADMIN_PASSWORD \
	$(patsubst %,NATS_%_PASSWORD,PROVISION GATEWAY AUTH WORKER INTERNAL)
OPTIONAL_SECRETS := SECRET_KEY_PREVIOUS HUGGINGFACE_TOKEN
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := libs/common services/gateway services/auth services/worker embedded
SOURCES := $(PACKAGES:%=%/src)
READY := $(VENV)/.ready

help: ## Show what there is
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 16

setup: $(READY) ## Make the virtual environment (PIP_ARGS are handed to pip)

# Writes to standard error alone: `compose-config` and `k8s-render` print what is meant for a file.
$(READY): constraints.txt requirements-dev.txt $(PACKAGES:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: set PYTHON")'
	@echo 'Installing into $(VENV), which takes minutes the first time' >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt \
		-r requirements-dev.txt $(PACKAGES:%=-e %) >&2
	@touch $(READY)

run: setup ## Run everything on this machine and print a link that makes a picture
	@$(BIN)/python -m sd_embedded

test: setup ## Run all tests (PYTEST_ARGS are handed to pytest)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

fidelity: setup ## Compare the pictures of every family, scheduler and kind with diffusers' own; minutes
	$(BIN)/python -m pytest tests/unit/engine -m fidelity $(PYTEST_ARGS)

# Where `support` is, which tests and benchmarks share.
chaos fuzz bench: export PYTHONPATH = tests

chaos: setup ## Kill, stop and restart everything under load, for CHAOS_SECONDS (600) from CHAOS_SEED; fails where a promise is broken
	OMP_NUM_THREADS=1 $(BIN)/python -m chaos
	$(BIN)/python benchmarks/cancels.py --check-goals
	$(BIN)/python benchmarks/websockets.py --check-goals

fuzz: setup ## Run the tests with random input on and on, for FUZZ_SECONDS (600) from FUZZ_SEED; prints what repeats a failure
	OMP_NUM_THREADS=1 $(BIN)/python -m fuzz $(PYTEST_ARGS)

check: setup ## Lint, types, import rules, drift of generated files, known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES) tests benchmarks tools examples
	$(BIN)/lint-imports
	$(BIN)/hadolint --failure-threshold style services/*/Dockerfile
	$(BIN)/python -m bandit --quiet --configfile pyproject.toml --recursive $(SOURCES)
	$(BIN)/python -m sd_gateway.http.openapi | diff -u openapi.yml - || (echo 'It is stale: run make openapi' && false)
	$(BIN)/python -m sd_common.asyncapi | diff -u asyncapi.yml - || (echo 'It is stale: run make asyncapi' && false)
	$(BIN)/python -m sd_common.nats_conf | diff -u k8s/base/nats.conf - || (echo 'It is stale: run make nats-conf' && false)
	$(BIN)/python tools/prometheus_rule.py | diff -u k8s/components/monitoring/prometheus-rule.yaml - || (echo 'It is stale: run make prometheus-rule' && false)
	@PYTHONPATH=tools $(BIN)/python -m supply_chain.audit

audit: setup ## Fail where a vulnerability of what is pinned is known, or where nobody can be asked
	@PYTHONPATH=tools $(BIN)/python -m supply_chain.audit --required

sbom: setup ## Write what each service's image installs to build/sbom, in CycloneDX
	@PYTHONPATH=tools $(BIN)/python -m supply_chain.sbom build/sbom

openapi: setup ## Write openapi.yml anew from the models
	$(BIN)/python -m sd_gateway.http.openapi > openapi.yml

asyncapi: setup ## Write asyncapi.yml anew from the models
	$(BIN)/python -m sd_common.asyncapi > asyncapi.yml

nats-conf: setup ## Write k8s/base/nats.conf anew: the users of NATS, and what each may do
	$(BIN)/python -m sd_common.nats_conf > k8s/base/nats.conf

bench: setup ## Measure latency, rates, start-up, memory, disk, fairness and how soon orders take effect, and print the tables
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/submissions.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/worker.py
	$(BIN)/python benchmarks/cores.py
	$(BIN)/python benchmarks/waiting.py
	$(BIN)/python benchmarks/model_loads.py
	$(BIN)/python benchmarks/backlog.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/cancels.py
	$(BIN)/python benchmarks/storage.py
	$(BIN)/python benchmarks/fairness.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/autoscaling.py
	$(BIN)/python benchmarks/websockets.py

train-shapes: setup ## Train the bundled model, from where a stopped run left off
	PYTHONPATH=tools $(BIN)/python -m train_shapes train

evaluate-shapes: setup ## Measure the bundled model, and print the tables of its model card
	PYTHONPATH=tools $(BIN)/python -m train_shapes evaluate

samples: setup ## Draw the sample pictures of docs/images anew
	PYTHONPATH=tools $(BIN)/python -m train_shapes samples

prometheus-rule: setup ## Write the alerts for the Prometheus operator anew; RUNBOOKS_URL is where you read docs/operations.md
	$(BIN)/python tools/prometheus_rule.py $(if $(RUNBOOKS_URL),--runbooks '$(RUNBOOKS_URL)') > k8s/components/monitoring/prometheus-rule.yaml

compose-up: compose-secrets ## Build the images and run everything under docker-compose
	IMAGE_REVISION=$$(git rev-parse HEAD 2>/dev/null) docker compose up --build --detach

compose-down: ## Stop what compose-up started; volumes stay
	docker compose down

# Containers read these as a user of their own: what keeps others out is the directory.
compose-secrets: ## Make the secrets of docker-compose that secrets/ does not hold yet
	@install -d -m 700 secrets
	@umask 022; for name in $(SECRETS); do \
		test -e secrets/$$name || head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > secrets/$$name; done
	@umask 022; for name in $(OPTIONAL_SECRETS); do test -e secrets/$$name || touch secrets/$$name; done

compose-config: setup ## Print the final docker-compose configuration
	@$(BIN)/docker-compose config

image-sizes: setup ## Install what the images of auth and gateway install, as they do, and print how large it is
	PYTHONPATH=tools $(BIN)/python -m supply_chain.image_install auth gateway

k8s-render: setup ## Print the Kubernetes manifests of K8S_OVERLAY (production, or dev)
	@$(BIN)/kubectl kustomize k8s/overlays/$(K8S_OVERLAY)

clean: ## Remove the virtual environment and caches; data/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
