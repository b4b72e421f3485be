# Bare `make` prints this help.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
CHECKPOINT ?= checkpoints/demo
CHUNK_MS ?= 560
PRECISION ?= fp32
MODE ?=
REPOSITORY ?= model_repository
GRPC_PORT ?= 8001
METRICS_PORT ?= 8002
MODEL_CONTROL ?=
CHUNK_SHARE ?=
NAME ?=
MODEL ?= $(NAME)
STREAMS ?= 64
MAX_STREAMS ?=
HOLD_S ?= 60
SPEECH ?= ../shared/speech
RECORDINGS ?= recordings
DATA ?=
LABELS ?=
OUTPUT ?=
# For GPU machines (deploy/README.md). Both containers have this tag: a plan loads only in the
# TensorRT version that built it.
NVIDIA_TAG ?= 26.11-py3
GPU_PRECISION ?= fp16

PYTHON312 ?= $(shell python3.12 -c 'import sys; print(sys.base_prefix)' 2>/dev/null)
GPU_PYTHON ?= $(BIN)/python
GPU_REPORT ?=
OTLP_URL ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OFFLINE := build/offline
KNOBS := $(REPOSITORY)/.knobs
EXPORTED := $(REPOSITORY)/.exported
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet --no-compile --constraint constraints.txt

# Compute capabilities of the GPUs that `make engines` builds for; none of them has to be present.
GPUS ?= sm80,sm86,sm89,sm120
ENGINES := build/engines

# Each combination of these knobs has engines of its own, in a folder of its own.
GPU_STREAMS := $(or $(MAX_STREAMS),1024)
GPU_MODE := $(or $(MODE),streaming)
GPU_MODELS := $(notdir $(CHECKPOINT))-$(GPU_MODE)-$(CHUNK_MS)ms-$(GPU_PRECISION)-$(GPU_STREAMS)
GPU_ENSEMBLE := asr_$(if $(filter offline,$(GPU_MODE)),offline,streaming)
COMPOSE := NVIDIA_TAG=$(NVIDIA_TAG) CHECKPOINT=$(CHECKPOINT) MODE=$(GPU_MODE) CHUNK_MS=$(CHUNK_MS) \
  GPU_PRECISION=$(GPU_PRECISION) MAX_STREAMS=$(GPU_STREAMS) GRPC_PORT=$(GRPC_PORT) \
  METRICS_PORT=$(METRICS_PORT) GPU_MODELS=$(GPU_MODELS) OTLP_URL=$(OTLP_URL) docker compose --file deploy/compose.yaml

.PHONY: help env demo export serve live test test-all parity demo-model adapt head lint types clean FORCE
.PHONY: engines overhead offline capacity loadtest overload faults fuzz platform soak selftest baseline
.PHONY: gpu-build gpu-up gpu-verify gpu-capacity gpu-down gpu-bundle gpu-report

help: ## Print this help
	@echo "Earshot: from a speech recognition checkpoint to a service with measured capacity."
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo
	@echo "Knobs (make TARGET KNOB=value): CHECKPOINT MODE CHUNK_MS PRECISION REPOSITORY GRPC_PORT METRICS_PORT"
	@echo "  MODEL_CONTROL CHUNK_SHARE NAME PYTHON SPEECH RECORDINGS"
	@echo "adapt, head: CHECKPOINT DATA OUTPUT; head: LABELS"
	@echo "load tests: URL MODEL STREAMS MAX_STREAMS HOLD_S P99_MS PROCESSES"
	@echo "baseline: URL MODEL RECORDINGS SETS OUTPUT; overhead: MODEL"
	@echo "gpu-*: GPU_PRECISION MAX_STREAMS PROCESSES NVIDIA_TAG GPU_PYTHON GPU_REPORT PYTHON312 OTLP_URL; engines: GPUS"

env: $(READY) ## Set up .venv with everything that runs here (CPU)

$(READY): pyproject.toml constraints.txt client/pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 12) or sys.exit( \
	  f"Python 3.11 or 3.12 is needed, this is {v[0]}.{v[1]}: make $(MAKECMDGOALS) PYTHON=python3.11")'
	@echo "setting up $(VENV) (about 2.4 GB, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --editable '.[export,tensorrt-rtx,server,loadtest,baseline,training,dev]' --editable './client[av,otel]'
	@touch $@

demo: $(READY) $(EXPORTED) ## Serve the demo model, transcribe real speech, count streams per core
	@$(BIN)/python demo.py --repository $(REPOSITORY)

export: $(READY) $(KNOBS) ## Export CHECKPOINT into REPOSITORY and check its output against the original
	$(BIN)/python -m export $(CHECKPOINT) --chunk-ms $(CHUNK_MS) --precision $(PRECISION) \
	  $(if $(MODE),--mode $(MODE)) $(if $(NAME),--name $(NAME)) --repository $(REPOSITORY)
	@touch $(EXPORTED)

# Export again if the checkpoint, mode, chunk, precision or name has changed since the last export.
$(KNOBS): FORCE
	@mkdir -p $(@D)
	@echo "$(CHECKPOINT) $(MODE) $(CHUNK_MS) $(PRECISION) $(NAME)" | cmp -s - $@ || \
	  echo "$(CHECKPOINT) $(MODE) $(CHUNK_MS) $(PRECISION) $(NAME)" >$@

$(EXPORTED): $(KNOBS) $(wildcard $(CHECKPOINT)/*.safetensors export/*.py export/*/*.py export/stages/offline/*.py) | $(READY)
	@$(MAKE) --no-print-directory export

serve: $(READY) $(EXPORTED) ## Serve REPOSITORY on 127.0.0.1:GRPC_PORT until Ctrl-C
	$(BIN)/python -m server --repository $(REPOSITORY) --grpc-port $(GRPC_PORT) \
	  --metrics-port $(METRICS_PORT) \
	  $(if $(MODEL_CONTROL),--model-control) $(if $(CHUNK_SHARE),--chunk-share $(CHUNK_SHARE))

live: $(READY) ## Export CHECKPOINT as NAME into the running server's REPOSITORY and load it; print the time taken
	@test -n "$(NAME)" || { echo "make live NAME=clinic_v2 CHECKPOINT=... REPOSITORY=..." >&2; exit 2; }
	@began=$$(date +%s) && \
	$(BIN)/python -m export $(CHECKPOINT) --name $(NAME) --chunk-ms $(CHUNK_MS) \
	  --precision $(PRECISION) $(if $(MODE),--mode $(MODE)) --repository $(REPOSITORY) && \
	$(BIN)/earshot models load $(NAME) --url localhost:$(GRPC_PORT) && \
	$(BIN)/earshot transcribe --model $(NAME) --url localhost:$(GRPC_PORT) recordings/jfk/jfk.flac && \
	echo "$$(( $$(date +%s) - began )) s from the checkpoint to the first transcript"

# More than a machine of two cores has: many tests wait for timers, or for files that one worker
# makes for all.
TEST_WORKERS ?= 6

test: $(READY) ## Unit tests, and tests against a real Triton
	$(BIN)/python -m pytest --numprocesses $(TEST_WORKERS)

parity: $(READY) ## Compare Triton with transformers on every recording (of EARSHOT_SPEECH), at every chunk length
	$(BIN)/python -m pytest -m slow

test-all: $(READY) ## Tests of `make test` and of `make parity`
	$(BIN)/python -m pytest -m '' --numprocesses $(TEST_WORKERS)

demo-model: $(READY) ## Train the demo model from recordings (takes hours; resumes where it was stopped)
	$(BIN)/python -m training --speech $(SPEECH) --fresh

adapt: $(READY) ## Adapt CHECKPOINT to the recordings in DATA; writes a custom model to OUTPUT
	@test -n "$(DATA)" -a -n "$(OUTPUT)" || { echo "make adapt DATA=recordings-of-yours OUTPUT=build/clinic" >&2; exit 2; }
	$(BIN)/python -m training adapt $(CHECKPOINT) --data $(DATA) --output $(OUTPUT)

head: $(READY) ## Train classifiers on CHECKPOINT's encoder for the columns LABELS of DATA; writes them to OUTPUT
	@test -n "$(DATA)" -a -n "$(LABELS)" -a -n "$(OUTPUT)" || \
	  { echo 'make head DATA=recordings-of-yours LABELS="column column" OUTPUT=build/orders' >&2; exit 2; }
	$(BIN)/python -m training head $(CHECKPOINT) --data $(DATA) $(addprefix --label ,$(LABELS)) \
	  --output $(OUTPUT)

overhead: $(READY) $(EXPORTED) ## Compare the streams per core of the whole service and of a bare ONNX Runtime loop
	$(BIN)/python -m loadtest overhead --repository $(REPOSITORY) $(ONE_MODEL)

# The recognizer that is measured; by default the one that NAME exports.
ONE_MODEL = $(if $(MODEL),--model $(MODEL))

offline: $(READY) ## Measure audio seconds per second and core on whole files, and compare with transformers
	@$(MAKE) --no-print-directory MODE=offline REPOSITORY=$(OFFLINE) $(OFFLINE)/.exported
	$(BIN)/python -m loadtest offline --checkpoint $(CHECKPOINT) --repository $(OFFLINE)

# Without URL, the load tests start a server of their own on REPOSITORY.
LOAD = $(if $(URL),--url $(URL),--repository $(REPOSITORY)) $(ONE_MODEL) --hold-s $(HOLD_S) \
  $(if $(P99_MS),--p99-ms $(P99_MS)) $(if $(PROCESSES),--processes $(PROCESSES))

capacity: $(READY) $(if $(URL),,$(EXPORTED)) ## Find the number of live streams that the server at URL sustains
	$(BIN)/python -m loadtest capacity $(LOAD) $(if $(MAX_STREAMS),--max-streams $(MAX_STREAMS))

loadtest: $(READY) $(if $(URL),,$(EXPORTED)) ## Hold STREAMS for HOLD_S; fails if they are not sustained
	$(BIN)/python -m loadtest hold --streams $(STREAMS) $(LOAD)

fuzz: $(READY) ## 10,000 malformed requests to every model, while live streams check their text
	$(BIN)/python -m pytest -m slow tests/service/test_fuzz.py -s

platform: $(READY) ## Play 60 live streams through Envoy while replicas start, drain and die
	$(BIN)/python -m pytest -m slow tests/deploy/test_text_behind_envoy.py -s

soak: $(READY) $(if $(URL),,$(EXPORTED)) ## Hold STREAMS for an hour, including streams that stall or end without notice
	$(BIN)/python -m loadtest soak --streams $(STREAMS) \
	  $(if $(URL),--url $(URL),--repository $(REPOSITORY)) $(ONE_MODEL)

overload: $(READY) $(EXPORTED) ## Offer more streams than the cores sustain; checks that admitted ones stay in real time
	$(BIN)/python -m loadtest overload --users 360 --repository $(REPOSITORY)

faults: $(READY) $(EXPORTED) ## Kill, freeze and drain a server under live streams
	$(BIN)/python -m loadtest faults --repository $(REPOSITORY)

selftest: $(READY) ## Check the load test against fake services with known capacity
	$(BIN)/python -m loadtest selftest

baseline: $(READY) $(if $(URL),,$(EXPORTED)) ## Compare WER and streams per core with PocketSphinx and Whisper, on RECORDINGS
	$(BIN)/python -m loadtest baseline $(if $(URL),--url $(URL),--repository $(REPOSITORY)) $(ONE_MODEL) \
	  --recordings $(RECORDINGS) $(addprefix --set ,$(SETS)) $(if $(OUTPUT),--output $(OUTPUT))

engines: $(READY) ## Build TensorRT engines of CHECKPOINT for GPUS, without a GPU, and list them
	@rm -rf $(ENGINES)
	@for precision in fp32 fp16 bf16; do \
	  $(BIN)/python -m export $(CHECKPOINT) --runtime tensorrt-rtx --gpu $(GPUS) --chunk-ms $(CHUNK_MS) \
	    --precision $$precision --mode streaming --repository $(ENGINES)/$$precision || exit; \
	done
	@$(BIN)/python -m export.tensorrt.table $(ENGINES)/* --record $(ENGINES).json

gpu-build: ## GPU machine: build the two images, on TensorRT and Triton of NVIDIA_TAG
	$(COMPOSE) build

gpu-up: gpu-build ## GPU machine: build the engines of CHECKPOINT if there are none, serve them
	@$(COMPOSE) run --rm --entrypoint test engines -f /models/$(GPU_MODELS)/$(GPU_ENSEMBLE)/1/manifest.json \
	  || $(COMPOSE) run --rm engines
	$(COMPOSE) up --detach --wait triton

gpu-verify: ## GPU machine: compare the engines with ONNX, stage by stage, and with transformers
	$(COMPOSE) run --rm engines export.tensorrt.verify $(CHECKPOINT) --repository /models/$(GPU_MODELS)

gpu-capacity: $(READY) ## GPU machine: find the number of live streams that `make gpu-up` sustains
	$(BIN)/python -m loadtest capacity --url 127.0.0.1:$(GRPC_PORT) \
	  $(if $(PROCESSES),--processes $(PROCESSES))

gpu-down: ## GPU machine: stop serving; the engines stay
	$(COMPOSE) down

gpu-bundle: $(READY) ## Bundle the packages that a GPU machine without network lacks (PYTHON312=prefix)
	$(BIN)/python -m loadtest gpu-bundle --python $(PYTHON312)

gpu-report: ## GPU machine: measure tokens, engine times, capacity and files; run again to resume
	$(GPU_PYTHON) -m loadtest gpu-report $(GPU_REPORT)

lint: $(READY) ## Check format and rules with ruff
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY) ## Check types with pyright: strict, and standard for the tests
	$(BIN)/pyright
	$(BIN)/pyright --project tests

# Committed configs stay. Others are removed with their models: Triton expects a model for each config.
COMMITTED := $(addprefix model_repository/,asr_streaming decoder encoder feature_extractor)

clean: ## Remove exported models; the environment stays
	rm -rf $(filter-out $(COMMITTED),$(patsubst %/1,%,$(wildcard $(REPOSITORY)/*/1)))
	rm -rf $(REPOSITORY)/*/1 $(KNOBS) $(EXPORTED)
