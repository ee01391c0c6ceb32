# Each target sets itself up: Python 3.10 or newer, pip and make are all it needs.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-tools kernels lint check docs check-kernels check-slow bench gpu-check results-table clean

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=
PARTS ?= training distillation kernels engines
GPU_ARGS ?= runs/gpu-check --clips ../shared/data/ucf10/index.csv
# A file of tests runs in one process, with one thread of PyTorch: two processes keep two cores busy.
WORKERS ?= 2
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
BIN := .venv/bin
RTSP_SERVER := python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good
TEST_TOOLS := $(RTSP_SERVER) chromium mosquitto
CROSS_COMPILER := aarch64-linux-gnu-g++
# kept out of the checkout, so that all checkouts and `make clean` share it
HEADERS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dvfl/headers
ONNXRUNTIME_HEADERS := $(HEADERS)/onnxruntime
TENSORRT_HEADERS := $(HEADERS)/tensorrt

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

demo: .venv-demo/ready ## recognise the actions in the bundled clip (small environment, no PyTorch)
	.venv-demo/bin/dvfl-recognize --demo

test: .venv/ready ## run the tests; PYTEST_ARGS="-k sampling" selects some
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(PYTEST_ARGS)

test-tools: ## install what some tests need (Debian; as root): RTSP server, browser, MQTT broker, headers; they skip without
	-@export/kernels/debian_headers.sh libonnxruntime-dev $(ONNXRUNTIME_HEADERS)
	-@export/kernels/tensorrt_headers.sh $(PYTHON) $(TENSORRT_HEADERS)
	@dpkg-query --show $(TEST_TOOLS) > /dev/null 2>&1 || { apt-get -qq update && \
	  DEBIAN_FRONTEND=noninteractive apt-get -qq --yes --no-install-recommends install $(TEST_TOOLS); }

kernels: .venv/ready ## build the fused kernels and install them into .venv (needs a C++ compiler)
	@[ -n "$$DVFL_ONNXRUNTIME_INCLUDE" ] || [ -d /usr/include/onnxruntime ] || \
	  export/kernels/debian_headers.sh libonnxruntime-dev $(ONNXRUNTIME_HEADERS)
	DVFL_ONNXRUNTIME_INCLUDE=$${DVFL_ONNXRUNTIME_INCLUDE:-$(ONNXRUNTIME_HEADERS)} \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps ./export/kernels

check: .venv/ready ## lint, formatting, types and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

lint: .venv-lint/ready ## the checks that need neither PyTorch nor engines; a minute with its set-up
	.venv-lint/bin/ruff check
	.venv-lint/bin/ruff format --check
	PYTHONPATH=.:models:export:benchmarks .venv-lint/bin/lint-imports

docs: .venv/ready ## build the pages of docs/ into site/; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --site-dir site

check-kernels: .venv/ready ## build the wheel of the kernels, and run their arithmetic under sanitizers
	$(BIN)/python -m pytest -m slow tests/export/kernels -k "wheel or sanitizers_find"

check-slow: .venv/ready ## run the tests that take minutes
	-@command -v $(CROSS_COMPILER) > /dev/null || { apt-get -qq update && \
	  DEBIAN_FRONTEND=noninteractive apt-get -qq --yes --no-install-recommends install g++-$(subst -g++,,$(CROSS_COMPILER)); }
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

bench: .venv/ready ## measure the bundled model on this machine; BENCH_ARGS="mine.onnx --json out.json"
	$(BIN)/dvfl-bench $(BENCH_ARGS)

# installs nothing, so that it runs without a network: PYTHON must have PyTorch with CUDA
gpu-check: ## measure on an NVIDIA GPU, 8 minutes at most; PARTS="training engines" GPU_ARGS="OUT"
	PYTHONPATH=$(CURDIR):$(CURDIR)/models:$(CURDIR)/export:$(CURDIR)/export/kernels:$(CURDIR)/benchmarks:$$PYTHONPATH \
	  $(PYTHON) -m dvfl_models.gpu_check $(GPU_ARGS) --parts $(PARTS)

results-table: .venv/ready ## fill the tables of models/RESULTS.md from models/results
	$(BIN)/python -m dvfl_models.studies.results table models/RESULTS.md

clean: ## remove the environments and what builds and tools leave behind; runs/ stays
	rm -rf .venv .venv-demo .venv-lint build dist site dvfl.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.venv-lint/ready: constraints.txt
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python $(PIP_INSTALL) ruff import-linter
	@touch $@

.venv-demo/ready: EXTRA := cpu
.venv/ready: EXTRA := dev
.venv/ready .venv-demo/ready: setup.py constraints.txt
	@echo "setting up $(@D) with the extra '$(EXTRA)'"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python $(PIP_INSTALL) --editable '.[$(EXTRA)]'
	@touch $@
