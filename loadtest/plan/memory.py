"""Compute how many live streams fit into the memory of a GPU, whatever its speed.

With `--runtime torch` the GPU's memory holds the state of every stream, and the weights and
recorded graphs of each process with an engine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MIB = 2**20
GPU_BYTES = {
    "T4": 15_360 * _MIB,
    "L4": 23_034 * _MIB,
    "A10": 23_028 * _MIB,
    "A100 40 GB": 40_960 * _MIB,
    "L40S": 46_068 * _MIB,
    "A100 80 GB": 81_920 * _MIB,
    "H100": 81_559 * _MIB,
    "H200": 143_771 * _MIB,
    "B200": 183_359 * _MIB,
}
"""Memory as reported by nvidia-smi, which varies by about a percent with the driver."""
GPU_SHARE = 0.9
"""Share of the GPU's memory that a plan may use."""
BATCH_COPIES = 1.4
"""Recorded graphs take this many states per row of the largest batch. With the 0.6B
model and batches of 512, 0.5 were measured in chunks of 160 ms, 1.0 of 560 ms, 1.4 of 1120 ms."""
_CONTEXT_BYTES = 0.8e9
"""CUDA context of a process, and memory of its libraries."""
_DTYPE_BYTES = {"FP32": 4, "FP16": 2, "BF16": 2}


class NoFootprint(Exception):
    """The repository holds no recognizer whose memory could be planned."""


@dataclass(frozen=True)
class Footprint:
    """The memory of a recognizer on a GPU."""

    state_bytes: float
    """State of one stream."""
    process_bytes: float
    """Memory of an engine's process, without its recorded graphs."""
    max_batch: int
    """Largest number of streams in one batch."""
    engines: int = 1
    """Number of engines: processes that share one count once."""


def footprint_of(repository: Path, name: str = "") -> Footprint:
    """Read the sizes of an export with `--runtime torch --layout fused`.

    Args:
        name: name of the recognizer, if it has one.

    Raises:
        NoFootprint: there is no such model, or it takes adapters.
    """
    prefix = f"{name}_" if name else ""
    recognizer = repository / f"{prefix}recognizer"
    weights, config = recognizer / "1" / "model.pt2", recognizer / "config.pbtxt"
    path = repository / f"{prefix}asr_streaming" / "1" / "manifest.json"
    if not (weights.is_file() and config.is_file() and path.is_file()):
        raise NoFootprint(f"expected {weights}: export with --runtime torch --layout fused")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if "adapters" in manifest:
        raise NoFootprint(
            f"{recognizer} takes adapters, whose pools and second program are not counted: export "
            "it without --adapters"
        )
    states = manifest["dims"]["state"].values()
    state_bytes = sum(s["rows"] * s["width"] * _DTYPE_BYTES[s["dtype"]] for s in states)
    from google.protobuf import text_format  # a heavy import that only this function needs
    from tritonclient.grpc import model_config_pb2

    found: Any = model_config_pb2.ModelConfig()  # pyright: ignore
    text_format.Parse(config.read_text(encoding="utf-8"), found)
    process_bytes = _CONTEXT_BYTES + weights.stat().st_size
    own = found.parameters["engine"].string_value == "own"
    engines = sum(group.count for group in found.instance_group) if own else 1
    return Footprint(state_bytes, process_bytes, found.max_batch_size, engines)


def streams_that_fit(footprint: Footprint, gpu_bytes: float) -> int:
    """Return the number of slots that fit in addition to the engines; 0 if these do not fit."""
    graphs = BATCH_COPIES * footprint.state_bytes * footprint.max_batch
    engines_bytes = footprint.engines * (footprint.process_bytes + graphs)
    left_bytes = GPU_SHARE * gpu_bytes - engines_bytes
    return max(0, int(left_bytes / footprint.state_bytes))
