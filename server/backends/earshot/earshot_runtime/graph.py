"""Open a stage's ONNX graph and check it against the model config."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from .adapter_pool import ADAPTER_POOL, ADAPTER_SLOTS
from .errors import BadStage
from .spec import StageSpec, TensorSpec
from .state import POOL, SLOTS, UPDATE, UPDATE_ROWS, StateSpec

_DTYPES: dict[str, type[np.generic]] = {
    "tensor(bool)": np.bool_,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
}


@dataclass(frozen=True)
class Graph:
    """An open session and the shapes of its states, if any."""

    session: ort.InferenceSession
    states: tuple[StateSpec, ...]
    adapter_pools: tuple[str, ...]
    """Names of the inputs that are pools of adapters."""


def open_graph(path: Path, spec: StageSpec, *, adapted: bool = False) -> Graph:
    """Load `path` for the CPU, or raise BadStage if graph and config contradict each other.

    Args:
        adapted: True for the graph for streams with adapters.
    """
    try:
        session = ort.InferenceSession(
            path, _session_options(spec), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise BadStage(f"{spec.model}: cannot load {path}: {error}") from error
    inputs, outputs = _tensors(session.get_inputs()), _tensors(session.get_outputs())
    slots = inputs.pop(SLOTS, None)
    adapter_pools = _pop_adapters(path, spec, inputs, adapted)
    suffixes = [name.removeprefix(POOL) for name in inputs if name.startswith(POOL)]
    pools = [inputs.pop(POOL + suffix) for suffix in suffixes]
    updates = [
        (outputs.pop(UPDATE + suffix, None), outputs.pop(UPDATE_ROWS + suffix, None))
        for suffix in suffixes
    ]
    _check_tensors(spec.model, "input", spec.inputs, inputs)
    _check_tensors(spec.model, "output", spec.outputs, outputs)
    rows = spec.sequence.state_rows if spec.sequence else ()
    if bool(rows) != (slots is not None) or len(rows) != len(pools):
        raise BadStage(
            f"{spec.model}: model.onnx must have {POOL} for each of the config's state_rows, "
            f"{SLOTS}, {UPDATE} and {UPDATE_ROWS} where the config has sequence_batching, and none "
            f"of them where it has not: it has {len(pools)} for {len(rows)}; export the model again"
        )
    states = tuple(map(partial(_state, spec), suffixes, rows, pools, updates))
    return Graph(session, states, adapter_pools)


def _pop_adapters(
    path: Path, spec: StageSpec, inputs: dict[str, TensorSpec], adapted: bool
) -> tuple[str, ...]:
    """Remove the inputs for adapters; return the names of their pools."""
    names = tuple(name for name in inputs if name.startswith(ADAPTER_POOL))
    widths = [inputs.pop(name).dims[0] for name in names]
    slots = inputs.pop(ADAPTER_SLOTS, None)
    shapes = spec.adapters.shapes if spec.adapters and adapted else ()
    expected = [width for _, width in shapes]
    if widths != expected or (slots is not None) != adapted:
        raise BadStage(
            f"{spec.model}: {path} has pools of adapters of the widths {widths}, the config needs "
            f"{expected}; export the model again"
        )
    return names


def _session_options(spec: StageSpec) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = spec.intra_op_threads
    # ONNX Runtime keeps a memory plan for every shape, and utterances have thousands of shapes.
    options.enable_mem_pattern = spec.sequence is not None
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors only: every exported graph causes warnings
    # Several stages share the cores: a spinning thread would take time from a stage with work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _tensors(nodes: Iterable[Any]) -> dict[str, TensorSpec]:
    return {
        node.name: TensorSpec(
            node.name,
            np.dtype(_DTYPES.get(node.type, np.object_)),
            tuple(dim if isinstance(dim, int) else -1 for dim in node.shape[1:]),
        )
        for node in nodes
    }


def _check_tensors(
    model: str, role: str, config: Iterable[TensorSpec], graph: dict[str, TensorSpec]
) -> None:
    wanted = {tensor.name: tensor for tensor in config}
    if wanted.keys() != graph.keys():
        raise BadStage(
            f"{model}: config and model.onnx disagree on {role}s: the config has "
            f"{sorted(wanted)}, the graph has {sorted(graph)}; export the model again"
        )
    for name, tensor in wanted.items():
        if not _fits(tensor, graph[name]):
            raise BadStage(
                f"{model}: config and model.onnx disagree on {role} {name}: the config has "
                f"{_describe(tensor)}, the graph has {_describe(graph[name])}; "
                "export the model again"
            )


def _fits(config: TensorSpec, graph: TensorSpec) -> bool:
    """Compare shapes; a dimension that either side leaves free fits any size."""
    return (
        config.dtype == graph.dtype
        and len(config.dims) == len(graph.dims)
        and all(a == b or -1 in (a, b) for a, b in zip(config.dims, graph.dims, strict=True))
    )


def _describe(tensor: TensorSpec) -> str:
    return f"{tensor.dtype} {list(tensor.dims)}"


def _state(
    spec: StageSpec,
    suffix: str,
    rows: int,
    pool: TensorSpec,
    updates: tuple[TensorSpec | None, TensorSpec | None],
) -> StateSpec:
    update, update_rows = updates
    if update is None or update_rows is None:
        raise BadStage(
            f"{spec.model}: model.onnx has {POOL}{suffix} and must have {UPDATE}{suffix} and "
            f"{UPDATE_ROWS}{suffix} as well; export the model again"
        )
    if update.dims != (*update_rows.dims, *pool.dims) or not update.is_fixed:
        raise BadStage(
            f"{spec.model}: {POOL}, {UPDATE} and {UPDATE_ROWS} of model.onnx do not fit together: "
            f"{_describe(pool)}, {_describe(update)}, {_describe(update_rows)}"
        )
    changed, width = update.dims
    return StateSpec(suffix, rows, width, changed, pool.dtype)
