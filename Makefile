# Bare `make` prints this help.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
CHECKPOINT ?= checkpoints/demo
CHUNK_MS ?= 560
PRECISION ?= fp32
REPOSITORY ?= model_repository
GRPC_PORT ?= 8001
SPEECH ?= ../shared/speech

PYTHON312 ?= $(shell python3.12 -c 'import sys; print(sys.base_prefix)' 2>/dev/null)
GPU_PYTHON ?= $(BIN)/python
GPU_REPORT ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
KNOBS := $(REPOSITORY)/.knobs
EXPORTED := $(REPOSITORY)/asr_streaming/1/manifest.json
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet --constraint constraints.txt

.PHONY: help env demo export serve test test-all parity overhead gpu-bundle gpu-report demo-model lint types clean FORCE

help: ## Print this help
	@echo "Earshot: from a speech recognition checkpoint to a service whose capacity is known."
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo
	@echo "Knobs (make TARGET KNOB=value): CHECKPOINT CHUNK_MS PRECISION REPOSITORY GRPC_PORT PYTHON SPEECH"

env: $(READY) ## Set up .venv with everything that runs here (CPU)

$(READY): pyproject.toml constraints.txt client/pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 12) or sys.exit( \
	  f"Python 3.11 or 3.12 is needed, this is {v[0]}.{v[1]}: make $(MAKECMDGOALS) PYTHON=python3.11")'
	@echo "setting up $(VENV) (about 1.5 GB, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --editable '.[export,server,loadtest,demo-model,dev]' --editable ./client
	@touch $@

demo: $(READY) $(EXPORTED) ## Serve the demo model, transcribe real speech, count streams per core
	@$(BIN)/python demo.py --repository $(REPOSITORY)

export: $(READY) ## Export CHECKPOINT into REPOSITORY, proved equal to the original
	$(BIN)/python -m export $(CHECKPOINT) --chunk-ms $(CHUNK_MS) --precision $(PRECISION) \
	  --repository $(REPOSITORY)

# Another checkpoint, chunk or precision than last time is another export.
$(KNOBS): FORCE
	@mkdir -p $(@D)
	@echo "$(CHECKPOINT) $(CHUNK_MS) $(PRECISION)" | cmp -s - $@ || \
	  echo "$(CHECKPOINT) $(CHUNK_MS) $(PRECISION)" >$@

$(EXPORTED): $(KNOBS) $(wildcard $(CHECKPOINT)/*.safetensors export/*.py export/stages/*.py) | $(READY)
	@$(MAKE) --no-print-directory export

serve: $(READY) $(EXPORTED) ## Serve REPOSITORY on 127.0.0.1:GRPC_PORT until Ctrl-C
	$(BIN)/python -m server --repository $(REPOSITORY) --grpc-port $(GRPC_PORT)

test: $(READY) ## Unit tests, and tests against a real Triton
	$(BIN)/python -m pytest

parity: $(READY) ## Every recording (EARSHOT_SPEECH), every chunk, through Triton, against transformers
	$(BIN)/python -m pytest -m slow

test-all: $(READY) ## Both suites
	$(BIN)/python -m pytest -m ''

demo-model: $(READY) ## Train the demo model from recordings (hours; may be stopped and called again)
	$(BIN)/python -m export.demo --speech $(SPEECH) --fresh

overhead: $(READY) $(EXPORTED) ## Streams per core: the whole service against a bare ONNX Runtime loop
	$(BIN)/python -m loadtest.overhead --repository $(REPOSITORY)

gpu-bundle: $(READY) ## Pack what a GPU machine without network lacks (PYTHON312=prefix)
	$(BIN)/python -m loadtest.gpu_bundle --python $(PYTHON312)

gpu-report: ## On a GPU machine: tokens, engine times, capacity; call again to go on
	$(GPU_PYTHON) -m loadtest gpu-report $(GPU_REPORT)

lint: $(READY) ## ruff: format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY) ## pyright, strict
	$(BIN)/pyright

clean: ## Remove what was exported; the environment stays
	rm -rf $(REPOSITORY)/*/1 $(KNOBS)
