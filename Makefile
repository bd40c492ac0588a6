# The README shows two targets: make run, make test.  `make help` lists the targets for developers.

SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
LAB := python3 -m lab run
KERNEL_TESTS := tests/e2e tests/contract tests/host_tools
LINTS := lint format types layers
KERNEL_JOBS := kernel-tests-1 kernel-tests-2 kernel-tests-3 kernel-tests-4 kernel-tests-5 kernel-tests-6
PYTHON_JOBS := python-3.12 python-3.13
# The fast tests wait a third of their time, so that three processes keep two CPUs busy.
WORKERS ?= $(shell echo $$(($$(nproc) * 3 / 2)))
LAWS_PROFILE ?= thorough
MINUTES ?= 10
SEED ?= 1
PATIENCE ?= 1
PIP_COMPILE = $(VENV)/bin/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links
JOBS = $(MAKE) --no-print-directory --keep-going --output-sync=target
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
BUILD_IMAGE = $(SUDO:sudo=sudo --preserve-env=SOURCE_DATE_EPOCH,SSL_CERT_FILE,PIP_CERT,PIP_CONFIG_FILE) python3 -m image.build

# Byte code is cached even where this is set: otherwise each of the agent's starts in the lab compiles it again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help run test test-qemu lab-kernels real-kubernetes test-kernels check dist pythons bench conformance golden configuration-page metrics-page image image-again deb deb-machine lock setup packages lab tools chart clean laws fuzz image-tests soak reliability-page doctor-page complaints-page completion man state-page dashboard-picture status-picture release fast-tests $(LINTS) ui-pictures browser $(KERNEL_JOBS) image-arm64 deb-arm64 $(PYTHON_JOBS)

help: ## list the targets for developers
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build/run/ready ## show a Service being served on a real kernel, from the manifest to an answered packet
	@python3 -m lab install --for-run
	@[ -t 1 ] && terminal=--terminal; $(LAB) --timeout 120 -- build/run/bin/python -m tests.demo $$terminal

# The libraries of the agent, and nothing that only tests need.
build/run/ready: image/requirements.lock
	@python3 -c 'import ensurepip, venv' 2>/dev/null || { echo "Installing the Debian package python3-venv, which is missing"; \
		$(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq python3-venv; }
	@echo "Installing the libraries of the agent in build/run, from PyPI"
	@python3 -m venv build/run
	@build/run/bin/pip install --quiet --disable-pip-version-check --require-hashes -r image/requirements.lock
	@touch $@

# Six jobs at a time for two CPUs, because half of them wait: the kernel tests do so for two thirds of their time.  A lab
# kernel and its programs use one CPU, each the one with the fewest others (lab/cpu.py).  The kernels are last, because
# they claim their test files from one queue (tests/kernel_queue.py) and so finish together; what runs for long in one
# process is first.  The laws run in full in a job of their own.  A job prints its output at its end.
test: ## run all tests, including those on a real kernel with IPVS
	@rm -rf build/kernel-queue
	@$(JOBS) --jobs=6 IN_TURN=1 WORKERS=0 ALL_EXAMPLES=1 LAWS_PROFILE=full PYTEST_ARGS=--ignore=tests/laws \
		image-tests laws fast-tests $(PYTHON_JOBS) types lint format layers $(KERNEL_JOBS)

ifdef IN_TURN  # apt-get fails while another one runs
lab: | packages
tools: | lab
image: | tools
deb: | image
browser: | deb
endif

test-qemu: setup image image-arm64 deb-arm64 ## test the agent with IPVS and iptables-nft, on Debian's own kernel in qemu, and on arm64; slow
	LAB=qemu python3 -m lab install
	$(PYTHON) -m pytest -m qemu tests/lab_tests
	@command -v qemu-aarch64-static >/dev/null || { $(SUDO) apt-get update -qq \
		&& $(SUDO) apt-get install -y -qq --no-install-recommends qemu-user-static; }
	@$(PYTHON) -m image.arm64
	$(PYTHON) -m pytest -m qemu tests/image
	LAB=qemu $(LAB) --timeout 1200 -- $(PYTHON) -m pytest -m qemu tests/e2e

lab-kernels: ## build the lab's kernel from Debian's sources, more than twice as fast as Debian's package: make lab-kernels [KERNELS="newest 6.12"]
	python3 -m lab build $(KERNELS)

real-kubernetes: ## build kube-apiserver and kube-proxy 1.20.2 from Debian's sources, unpack etcd, print the variables that name them
	@python3 -m lab build-kubernetes

test-kernels: setup lab ## build the kernels that are missing, test on each with both iptables, write docs/support.md; slow: make test-kernels [KERNELS="5.10 6.1 6.12 newest"]
	$(PYTHON) -m tests.support $(KERNELS)

laws: setup ## run the property tests of the laws with 5,000 random examples each (make test: 500, always the same); slow
	HYPOTHESIS_PROFILE=$(LAWS_PROFILE) $(PYTHON) -m pytest --timeout 1800 tests/laws

fuzz: build/atheris/ready ## look for inputs on which a reader fails, guided by coverage: make fuzz [SECONDS=300] [ONLY="proc http-heads"]
	@build/atheris/bin/python -m tests.fuzz $(or $(SECONDS),300) $(ONLY)

build/atheris/ready: tests/fuzz/requirements.lock image/requirements.lock
	python3 -m venv build/atheris
	build/atheris/bin/pip install --quiet --disable-pip-version-check --require-hashes $(^:%=-r %)
	@touch $@

image-tests: image deb tools browser
	$(PYTHON) -m pytest -m "image or lab"

$(KERNEL_JOBS): setup lab image tools deb-machine
	$(LAB) --timeout 1500 -- $(PYTHON) -m pytest -m kernel -p no:hypothesispytest -p tests.kernel_queue --queue=build/kernel-queue \
		--durations=10 $(KERNEL_TESTS)

chart: setup ## generate the files of the Helm chart: README.md, copies of rules and dashboard
	$(PYTHON) -m tests.deploy.chart_files

check: setup tools ## check lint, format, types and layers, and run the fast tests; under a minute
	@$(JOBS) --jobs=4 fast-tests $(LINTS)

fast-tests: setup tools #  the longest of the jobs of check, so it begins first
	$(PYTHON) -m pytest --numprocesses=$(WORKERS) --dist=worksteal $(PYTEST_ARGS)

lint: setup
	$(VENV)/bin/ruff check .

format: setup
	$(VENV)/bin/ruff format --check .

types: setup
	$(VENV)/bin/mypy

layers: setup
	$(VENV)/bin/lint-imports --no-logo

image: ## build the container image: build/image/kubeproxy-py.tar; make image [BASE=debian:12-slim]
	@(for tool in buildah mmdebstrap runc; do command -v $$tool >/dev/null || exit 1; done) || { $(SUDO) apt-get update -qq \
		&& $(SUDO) apt-get install -y -qq --no-install-recommends buildah mmdebstrap runc ca-certificates; }
	@$(BUILD_IMAGE) $(BASE)

image-arm64: image ## build the image for arm64 on another processor, without running anything of arm64: build/image/kubeproxy-py-arm64.tar
	@$(BUILD_IMAGE) --processor=arm64

deb: setup ## build the Debian package: build/deb/kubeproxy-py_VERSION_ARCHITECTURE.deb
	@$(SUDO) env DEBIAN_FRONTEND=noninteractive python3 -m image.deb tools
	@python3 -m image.deb build

deb-arm64: deb ## build the Debian package for arm64 on another processor
	@$(SUDO) env DEBIAN_FRONTEND=noninteractive python3 -m image.deb tools arm64
	@python3 -m image.deb build arm64

deb-machine: deb #  make the tree of a fresh Debian 12 machine, on which the package is tested
	@$(SUDO) python3 -m image.deb machine

image-again: image ## build the image again from scratch, and fail if a byte differs
	@python3 -m image.archive build/image/kubeproxy-py.tar >build/image/first
	@rm -f build/image/base.tar build/image/kubeproxy-py.tar
	@$(MAKE) --no-print-directory image
	@python3 -m image.archive build/image/kubeproxy-py.tar | diff build/image/first - && echo "identical, byte for byte"

conformance: setup lab ## compare the agent's kernel state with expected states: make conformance CASES=DIR [ONLY=name]
	@$(LAB) --timeout 3600 -- $(PYTHON) -m tests.conformance $(abspath $(or $(CASES),tests/recorded_cases)) $(if $(ONLY),--only $(ONLY))

bench: setup lab build/plots/ready ## measure on the lab kernel: print a table, write build/bench.json and plots
	@$(PYTHON) -m bench; status=$$?; \
		[ $$status = 2 ] || build/plots/bin/python -m bench.plots build/bench.json build || exit 2; exit $$status

build/plots/ready: bench/requirements.lock
	python3 -m venv build/plots
	build/plots/bin/pip install --quiet --disable-pip-version-check --require-hashes -r bench/requirements.lock
	@touch $@

dashboard-picture: setup lab tools build/plots/ready ## run agents under traffic, ask the dashboard's queries of Prometheus, draw docs/dashboard.png
	@$(LAB) --timeout 600 -- $(PYTHON) -m tests.dashboard.record build/dashboard.json
	@build/plots/bin/python -m tests.dashboard.draw build/dashboard.json docs/dashboard.png

status-picture: setup lab ## run an agent, ask status and explain, draw docs/status.svg
	@$(LAB) --timeout 300 -- $(PYTHON) -m tests.demo.picture docs/status.svg

soak: setup lab ## inject random faults under traffic on the lab kernel, and report: make soak [MINUTES=10] [SEED=1] [PATIENCE=1]
	@$(LAB) --timeout $$(($(MINUTES) * 60 + 400)) -- $(PYTHON) -m tests.soak --minutes $(MINUTES) --seed $(SEED) \
		--patience $(PATIENCE) --report build/soak-$(SEED).json

reliability-page: setup ## generate docs/reliability.md from the reports of make soak
	$(PYTHON) -m tests.soak.reliability_page build/soak-*.json

dist: setup ## build the sdist and the wheel, install the wheel in an empty environment and run it
	rm -rf dist build/dist && $(PYTHON) -m build --quiet --outdir dist .
	python3 -m venv build/dist && build/dist/bin/pip install --quiet --disable-pip-version-check dist/*.whl
	cd build/dist && bin/kubeproxy-py --version && bin/kubeproxy-py completion bash >/dev/null
	cd build/dist && { bin/kubeproxy-py plan --assume-empty --manifests ../../deploy/examples --hostname-override node-a >plan; test $$? = 2; } && tail -1 plan
	@ls -l dist

release: image image-arm64 deb deb-arm64 ## build wheel, sdist, Debian packages and images for amd64 and arm64, bills of materials, notes and checksums into dist/
	@$(PYTHON) -m image.release

pythons: $(PYTHON_JOBS) ## run the fast tests that run the package on every other supported Python that is installed

# pyenv's shims find every version that PYENV_VERSION names.
$(PYTHON_JOBS): python-%: setup
	PYENV_VERSION=$$(pyenv versions --bare 2>/dev/null | grep -E '^3\.1[1-9]\.' | paste -sd:) HYPOTHESIS_PROFILE=brief \
		$(VENV)/bin/nox --no-error-on-missing-interpreters --session tests-$*

golden: setup ## write the golden files again; read the diff
	$(PYTHON) -m tests.wire.regenerate

configuration-page: setup ## generate docs/configuration.md from the configuration types
	$(PYTHON) -m tests.deploy.configuration_page

metrics-page: setup ## generate docs/metrics.md from the metric definitions
	$(PYTHON) -m tests.metrics.metrics_page

doctor-page: setup ## generate docs/doctor.md from the table of checks
	$(PYTHON) -m tests.checks.doctor_page

complaints-page: setup lab ## make the complaints of docs/troubleshooting.md on the lab kernel, and print what the commands say of them
	-@$(LAB) --timeout 600 -- $(PYTHON) -m pytest -m kernel tests/e2e/test_complaints.py
	$(PYTHON) -m tests.complaints.page build/complaints

completion: setup ## generate the completion scripts in kubeproxy_py/completion/ from the parsers of the commands
	$(PYTHON) -m tests.deploy.completion_scripts

man: setup ## generate the manual pages from the parsers of the commands: build/man/*.8
	$(PYTHON) -m image.man_pages

state-page: setup ## generate docs/state.md from the classes of the state documents
	$(PYTHON) -m tests.diagnose.state_page

ui-pictures: setup browser ## take the pictures of the page /ui in docs/ again
	$(PYTHON) -m tests.ui.pictures

lock: setup ## update the lock files of all dependencies
	$(VENV)/bin/pip install --quiet pip-tools
	$(PIP_COMPILE) --extra tests --extra dev -o requirements.lock pyproject.toml
	$(PIP_COMPILE) --extra tests --constraint requirements.lock -o tests/requirements.lock pyproject.toml
	$(PIP_COMPILE) --constraint requirements.lock -o image/requirements.lock pyproject.toml
	$(PIP_COMPILE) -o image/tools.lock image/tools.in
	$(PIP_COMPILE) -o tests/fuzz/requirements.lock tests/fuzz/requirements.in

clean: ## delete everything that the targets created
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

setup: $(VENV)/ready

$(VENV)/ready: requirements.lock pyproject.toml | packages
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps \
		--config-settings=editable_mode=compat --editable .
	@touch $@

packages: #  install the Debian packages without which setup fails
	@python3 -c 'import ensurepip, venv' 2>/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq python3-venv; }
	@command -v gcc >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq gcc libc6-dev; }

browser: #  install the browser for the tests of /ui
	@python3 -m lab install --browser

lab: #  install the requirements of the lab kernel
	@python3 -m lab install

tools: #  unpack prometheus, helm and kubectl below build/, which tests need
	@python3 -m lab install-tools
