"""Check that TensorRT engines may run here, and compute the GPU memory of their streams.

Implicit state is kept in Triton's CUDA memory pool, whose size is set by a flag (64 MiB by default)
and never grows. If it is full, Triton moves states to host memory, logs that once, and continues
slowly. So the launcher computes the size of the pool and stops if that line appears in the log.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BadGpu, BadRepository, TritonDied
from .gpu import Gpu, tensorrt_version, this_gpu
from .log import cuda_pool_bytes

REBUILD_HINT = "`make gpu-up` builds engines for this GPU and container, and serves them"

_TYPE_BYTES = {"TYPE_FP32": 4, "TYPE_INT32": 4, "TYPE_FP16": 2, "TYPE_BF16": 2}
# The pool allocates whole blocks.
_BLOCK_BYTES = 512
_GIB = 2**30
_MIB = 2**20
# Memory of the CUDA context, cuBLAS and Triton itself, as seen with other models in such
# containers.
_OTHER_BYTES = 2 * _GIB
# Batches of whole utterances: one running and one waiting.
_BATCHES_IN_FLIGHT = 2
# Share of the pool that is lost to fragmentation between blocks of three sizes.
_POOL_SLACK = 1.1


@dataclass(frozen=True)
class Budget:
    """GPU memory of a TensorRT repository, in bytes."""

    weights: int
    """Plans and the activations of their execution contexts."""
    state_per_stream: int
    """States of all stages of the largest ensemble; Triton uses one buffer for input and output."""
    in_flight_per_stream: int
    """Largest size of the tensors between the stages for one chunk."""
    batch_buffers: int
    """The backend's own inputs and outputs, states included, at the largest batch."""
    files_in_flight: int
    """Tensors between offline stages, for a running and a waiting batch."""
    streams: int
    gpu: Gpu

    @property
    def pool(self) -> int:
        """Return the size of a CUDA memory pool that holds every stream."""
        per_stream = self.state_per_stream + self.in_flight_per_stream
        used = self.streams * per_stream + self.files_in_flight
        return math.ceil(_POOL_SLACK * used / _MIB) * _MIB

    @property
    def total(self) -> int:
        """Return the sum of all parts."""
        return self.weights + self.batch_buffers + self.pool + _OTHER_BYTES

    @property
    def streams_that_fit(self) -> int:
        """Return the number of streams that fit into the memory, whatever the GPU's speed."""
        free = self.gpu.memory_bytes - self.weights - self.batch_buffers - _OTHER_BYTES
        free -= _POOL_SLACK * self.files_in_flight
        per_stream = _POOL_SLACK * (self.state_per_stream + self.in_flight_per_stream)
        return max(0, int(free / per_stream)) if per_stream else 0

    def lines(self) -> list[str]:
        """Return the budget as lines of text."""
        return [
            f"GPU memory on {self.gpu.name} ({self.gpu.memory_bytes / _GIB:.1f} GiB):",
            f"  engines and their activations {self.weights / _MIB:10.1f} MiB",
            f"  batch buffers                 {self.batch_buffers / _MIB:10.1f} MiB",
            f"  state per stream              {self.state_per_stream / _MIB:10.3f} MiB",
            f"  pool for {self.streams:6d} streams       {self.pool / _MIB:10.1f} MiB",
            f"  CUDA and Triton (assumed)     {_OTHER_BYTES / _MIB:10.1f} MiB",
            f"  total {self.total / _GIB:.1f} GiB; {self.streams_that_fit} streams would fit",
        ]


def read_budget(folder: Path, configs: dict[str, Any], streams: int) -> Budget:
    """Check that the engines may run here and return their budget, or raise a UserError."""
    every = _facts(folder)
    gpu = this_gpu()
    for facts in every:
        _check_gpu(facts, gpu)
        _check_version(facts)
    budget = budget_of(configs, every, streams, gpu)
    fit = budget.streams_that_fit
    if fit < streams or budget.total > gpu.memory_bytes:
        remedy = f"export again with `--max-streams {fit}`" if fit else "a larger GPU is needed"
        raise BadGpu(
            f"{streams} streams need {budget.total / _GIB:.1f} GiB, {gpu.name} has "
            f"{gpu.memory_bytes / _GIB:.1f} and holds {fit}: {remedy}, or a precision with smaller "
            "state"
        )
    return budget


def budget_of(
    configs: dict[str, Any], every: list[dict[str, Any]], streams: int, gpu: Gpu
) -> Budget:
    """Compute the budget from `configs` (model -> ModelConfig) and the manifests."""
    engines = [engine for facts in every for engine in facts["engines"].values()]
    # The length of utterances is free in the configs; the manifests contain the bytes.
    files = sum(engine.get("buffer_bytes", 0) for engine in engines)
    stages = {name: config for name, config in configs.items() if _states(config)}
    # A stream uses the stages of one ensemble only.
    ensembles = [
        [stages[step.model_name] for step in steps if step.model_name in stages]
        for steps in (config.ensemble_scheduling.step for config in configs.values())
    ]
    return Budget(
        weights=sum(engine["plan_bytes"] + engine["device_memory_bytes"] for engine in engines),
        state_per_stream=max(
            sum(_block(state) for stage in members for state in _states(stage))
            for members in ensembles
        ),
        in_flight_per_stream=max(
            sum(_block(tensor) for stage in members for tensor in stage.output)
            for members in ensembles
        ),
        batch_buffers=sum(map(_batch_bytes, stages.values())) + files,
        files_in_flight=_BATCHES_IN_FLIGHT * files,
        streams=streams,
        gpu=gpu,
    )


def require_state_pool(log: Path, budget: Budget) -> None:
    """Raise TritonDied unless the pool that Triton logs is large enough for the states."""
    made = cuda_pool_bytes(log)
    if made < budget.pool:
        raise TritonDied(
            f"Triton made a CUDA memory pool of {made} bytes, and the states of {budget.streams} "
            f"streams need {budget.pool}: they would lie in host memory. Start it with `python -m "
            "server`, which asks for the pool, on a GPU that no other process fills"
        )


def _facts(folder: Path) -> list[dict[str, Any]]:
    """Return the `tensorrt` part of the manifest of each ensemble."""
    manifests = sorted(folder.glob("*/1/manifest.json"))
    facts = [json.loads(path.read_text(encoding="utf-8")).get("tensorrt") for path in manifests]
    every = [entry for entry in facts if entry is not None]
    if every:
        return every
    raise BadRepository(
        f"{folder} holds no manifest of TensorRT engines (<ensemble>/1/manifest.json), which "
        f"records what they run on; {REBUILD_HINT}"
    )


def _check_gpu(facts: dict[str, Any], gpu: Gpu) -> None:
    built_on = facts["gpu"]["name"]
    if built_on != gpu.name:
        raise BadGpu(f"the engines were built on {built_on}, this is {gpu.name}; {REBUILD_HINT}")


def _check_version(facts: dict[str, Any]) -> None:
    wanted = tuple(int(part) for part in facts["version"].split(".")[:3])
    found = tensorrt_version(wanted[0])
    if found != wanted:
        raise BadGpu(
            f"the engines were built by TensorRT {_dotted(wanted)}, this container has "
            f"{_dotted(found)}, and a plan loads only in the TensorRT that built it; {REBUILD_HINT}"
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _states(config: Any) -> list[Any]:
    return list(config.sequence_batching.state)


def _block(tensor: Any) -> int:
    return math.ceil(_bytes(tensor) / _BLOCK_BYTES) * _BLOCK_BYTES


def _batch_bytes(config: Any) -> int:
    """Return the bytes of the largest batch; each state counts twice, as input and output."""
    tensors = [*config.input, *config.output, *_states(config), *_states(config)]
    return config.max_batch_size * sum(map(_bytes, tensors))


def _bytes(tensor: Any) -> int:
    descriptor = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type
    kind = descriptor.values_by_number[tensor.data_type].name
    return math.prod(tensor.dims) * _TYPE_BYTES[kind]
