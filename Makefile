# The README shows two commands: make run, make test.  `make help` lists the rest.

SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
LAB := python3 -m lab run
NODES := $(addprefix tests/e2e/test_,recorded_cases.py spec_cases.py systemd.py alerts.py image.py policies.py health.py \
	health_port_packets.py metrics.py many_restarts.py)
PIP_COMPILE = $(VENV)/bin/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links
BOTH = $(MAKE) --no-print-directory --jobs=2 --output-sync=target
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.DEFAULT_GOAL := help
.PHONY: help run test test-qemu check bench conformance golden configuration-page metrics-page image image-again lock setup lab clean host-tests image-tests kernel-nodes kernel-rest

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: setup lab ## show the main job on a real kernel: from a Service to an answered packet
	@$(LAB) --timeout 120 -- $(PYTHON) -m tests.demo

test: setup lab ## all tests, those on a real kernel with IPVS included
	@$(BOTH) host-tests image-tests
	@$(BOTH) kernel-nodes kernel-rest

test-qemu: setup ## the agent with IPVS and iptables-nft, on Debian's own kernel in qemu; slow
	LAB=qemu python3 -m lab install
	$(PYTHON) -m pytest -m qemu tests/lab_tests
	LAB=qemu $(LAB) --timeout 1200 -- $(PYTHON) -m pytest -m qemu tests/e2e

# Two at once, for nearly all of it is for one CPU, the lab's kernels too; each prints when it is done.
host-tests: check
	HYPOTHESIS_PROFILE=full $(PYTHON) -m pytest tests/laws

image-tests: image
	$(PYTHON) -m pytest -m image
	$(PYTHON) -m pytest -m lab

kernel-nodes:
	$(LAB) --timeout 1500 -- $(PYTHON) -m pytest -m kernel --durations=10 $(NODES)

kernel-rest:
	$(LAB) --timeout 1500 -- $(PYTHON) -m pytest -m kernel --durations=10 $(NODES:%=--ignore=%)

check: setup ## lint, format, types, layers and the fast tests; under a minute
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	$(PYTHON) -m pytest

image: ## build the container image: build/image/kubeproxy-py.tar; make image [BASE=debian:12-slim]
	@(for tool in buildah mmdebstrap runc; do command -v $$tool >/dev/null || exit 1; done) || { $(SUDO) apt-get update -qq \
		&& $(SUDO) apt-get install -y -qq --no-install-recommends buildah mmdebstrap runc ca-certificates; }
	@$(SUDO:sudo=sudo --preserve-env=SOURCE_DATE_EPOCH,SSL_CERT_FILE,PIP_CERT,PIP_CONFIG_FILE) python3 -m image.build $(BASE)

image-again: image ## build the image anew from nothing, and fail if a byte is different
	@python3 -m image.archive build/image/kubeproxy-py.tar >build/image/first && rm -f build/image/base.tar
	@$(MAKE) --no-print-directory image
	@python3 -m image.archive build/image/kubeproxy-py.tar | diff build/image/first - && echo "the same, byte for byte"

conformance: setup lab ## hold the agent against expected kernel states: make conformance CASES=DIR [ONLY=name]
	@$(LAB) --timeout 3600 -- $(PYTHON) -m tests.conformance $(abspath $(or $(CASES),tests/recorded_cases)) $(if $(ONLY),--only $(ONLY))

bench: setup lab build/plots/ready ## measure on the lab kernel: a table, build/bench.json, and plots beside it
	@$(PYTHON) -m bench; status=$$?; \
		[ $$status = 2 ] || build/plots/bin/python -m bench.plots build/bench.json build || exit 2; exit $$status

build/plots/ready: bench/requirements.lock
	python3 -m venv build/plots
	build/plots/bin/pip install --quiet --disable-pip-version-check --require-hashes -r bench/requirements.lock
	@touch $@

golden: setup ## write the golden files anew; read the diff
	$(PYTHON) -m tests.wire.regenerate

configuration-page: setup ## print docs/configuration.md from the configuration's types
	$(PYTHON) -m tests.deploy.configuration_page

metrics-page: setup ## print docs/metrics.md from the table of metrics
	$(PYTHON) -m tests.metrics.metrics_page

lock: setup ## pin the dependencies anew
	$(VENV)/bin/pip install --quiet pip-tools
	$(PIP_COMPILE) --extra dev -o requirements.lock pyproject.toml
	$(PIP_COMPILE) --constraint requirements.lock -o image/requirements.lock pyproject.toml
	$(PIP_COMPILE) -o image/tools.lock image/tools.in

clean: ## remove what the targets made
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

setup: $(VENV)/ready

$(VENV)/ready: requirements.lock pyproject.toml
	@python3 -c 'import ensurepip, venv' 2>/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq python3-venv; }
	@command -v gcc >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq gcc libc6-dev; }
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

lab: #  install what the lab kernel needs
	@python3 -m lab install
