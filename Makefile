# A fresh machine needs git, make and python3 (3.10 or newer, with venv). Every target makes what it needs.
#
#   make demo          the runtime alone: fly over a made-up area from an unknown start; out/demo/report.html
#   make test          everything: the tests, the fast ones first
#   make test-cuda     the tests that need an NVIDIA GPU, with its driver (580 or newer); CUDA_PYTHON=python3 runs them
#                      with what that interpreter has, and fetches nothing
#   make bench-NAME    benchmarks/NAME.py, which writes benchmarks/results/NAME.{json,md}; ARGS="…" adds options
#   make lint          ruff and mypy
#   make clean         remove the environments and what the targets made
#
#   PYTHON=python3.12  the interpreter that the environments are made with (`make clean` before another)
#   DEPS=lowest        the lowest versions in place of the newest (an environment of its own)

PYTHON ?= python3
DEPS ?= newest
ARGS ?=
CUDA_PYTHON ?= .venv/cuda/bin/python

LOWEST := $(filter lowest,$(DEPS))
RUNTIME := .venv/runtime$(if $(LOWEST),-lowest)
DEV := .venv/dev$(if $(LOWEST),-lowest)
PIP_OPTIONS := --quiet --disable-pip-version-check $(if $(LOWEST),-c constraints-lowest.txt)

# PyTorch's own index has CPU builds of a tenth of the size; where it can't be reached the default index serves.
TORCH_INDEX := https://download.pytorch.org/whl/cpu
PROBE := import urllib.request; urllib.request.urlopen("$(TORCH_INDEX)/torch/", timeout=5)

# One thread for each test process: the processes take the cores.
PYTEST := OMP_NUM_THREADS=1 $(DEV)/bin/python -m pytest -q -n logical --maxprocesses 8 --dist worksteal

.DELETE_ON_ERROR:
.PHONY: help demo test test-cuda lint clean

help:
	@sed -n '2,/^$$/s/^# \{0,1\}//p' Makefile

demo: $(RUNTIME)/.made
	$(RUNTIME)/bin/kittiwake demo -o out/demo $(ARGS)

test: $(DEV)/.made
	$(PYTEST) -m "not slow" $(ARGS)
	$(PYTEST) -m slow $(ARGS)

test-cuda: $(filter .venv/cuda/.made,$(CUDA_PYTHON:bin/python=.made))
	PYTHONPATH=runtime:models:training:export:ros_nodes$${PYTHONPATH:+:$$PYTHONPATH} \
	    $(CUDA_PYTHON) -m pytest -m cuda -rs $(or $(ARGS),tests)

bench-%: benchmarks/%.py $(DEV)/.made
	$(DEV)/bin/python $< $(ARGS)

lint: $(DEV)/.made
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy

clean:
	rm -rf .venv out .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(RUNTIME)/.made: runtime/pyproject.toml models/pyproject.toml
	@echo "making $(RUNTIME): about 150 MB to download"
	$(PYTHON) -m venv $(RUNTIME)
	$(RUNTIME)/bin/pip install $(PIP_OPTIONS) -e ./runtime -e ./models
	@touch $@

$(DEV)/.made: $(wildcard */pyproject.toml) ros_nodes/setup.py requirements-dev.txt constraints-lowest.txt
	@echo "making $(DEV): about 550 MB to download"
	$(PYTHON) -m venv $(DEV)
	@index=""; if $(PYTHON) -c '$(PROBE)' 2>/dev/null; then index="--extra-index-url $(TORCH_INDEX)"; fi; \
	set -x; $(DEV)/bin/pip install $(PIP_OPTIONS) $$index -r requirements-dev.txt \
	    -e ./runtime -e ./models -e ./training -e ./export -e ./ros_nodes
	@touch $@

# onnxruntime and onnxruntime-gpu are one module: the second must be installed last, and alone.
.venv/cuda/.made: $(wildcard */pyproject.toml) requirements-dev.txt requirements-cuda.txt
	@echo "making .venv/cuda: about 4 GB to download"
	$(PYTHON) -m venv .venv/cuda
	.venv/cuda/bin/pip install $(PIP_OPTIONS) -r requirements-dev.txt -r requirements-cuda.txt \
	    -e ./runtime -e ./models -e ./training -e ./export
	.venv/cuda/bin/pip uninstall --quiet --yes onnxruntime onnxruntime-gpu
	.venv/cuda/bin/pip install $(PIP_OPTIONS) --no-deps onnxruntime-gpu
	@touch $@
