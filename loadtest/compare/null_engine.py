"""Write a recognizer whose engine computes nothing, to measure the rest of the server.

It has the tensors, the tokenizer and the ensemble of an exported one, so that requests pass through
the same hops. Its graph always runs in ONNX Runtime, and outputs two tokens per chunk, about as
many as half a second of speech.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

# The generated protobuf classes have no types.
_pb: Any = model_config_pb2

RECOGNIZER, ENSEMBLE = "recognizer", "asr_streaming"
_TOKENS = 2
_ELSEWHERE = ("TEXT", "TOKEN_TEXT_LENGTHS")
"""Outputs that the backend adds to those of the engine."""


class NotFused(Exception):
    """The repository contains no recognizer in one model."""


def write_null_repository(
    exported: Path,
    folder: Path,
    *,
    instances: int,
    shared: bool,
    max_streams: int,
    max_batch: int,
) -> None:
    """Write the recognizer of `exported` with an engine that computes nothing into `folder`.

    Args:
        exported: Repository with a recognizer exported with the layout `fused`.
        folder: Repository to write.
        instances: Processes of the recognizer.
        shared: True if they share one engine, in a process of its own, as on a GPU.
        max_streams: Total number of streams that it accepts.
        max_batch: Largest number of streams in one batch.

    Raises:
        NotFused: There is no such recognizer.
    """
    if not (exported / RECOGNIZER / "config.pbtxt").is_file():
        raise NotFused(f"no {RECOGNIZER} in {exported}: export with --layout fused")
    for model in (RECOGNIZER, ENSEMBLE):
        skipped = shutil.ignore_patterns("*.pt2", "*.onnx*", "*.engine", "adapted")
        shutil.copytree(exported / model, folder / model, ignore=skipped)
    recognizer, ensemble = _config(folder / RECOGNIZER), _config(folder / ENSEMBLE)
    [group] = recognizer.instance_group
    group.kind, group.count = _pb.ModelInstanceGroup.KIND_CPU, instances
    for name in [name for name in recognizer.parameters if name.startswith(("adapter", "device"))]:
        del recognizer.parameters[name]
    values = {
        "runtime": "onnxruntime",
        "state_rows": "1",
        "max_streams": str(-(-max_streams // instances)),
        "engine": "shared" if shared else "own",
    }
    for name, value in values.items():
        recognizer.parameters[name].string_value = value
    recognizer.max_batch_size = ensemble.max_batch_size = max_batch
    ensemble.parameters["runtime"].string_value = "onnxruntime"
    ensemble.parameters["max_streams"].string_value = str(max_streams)
    for model, config in ((RECOGNIZER, recognizer), (ENSEMBLE, ensemble)):
        text = text_format.MessageToString(config)
        (folder / model / "config.pbtxt").write_text(text, encoding="utf-8")
    _save_graph(recognizer, folder / RECOGNIZER / "1" / "model.onnx")


def _config(model: Path) -> Any:
    text = (model / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, _pb.ModelConfig())


def _save_graph(config: Any, path: Path) -> None:
    """Save a graph that outputs the same row for each stream and writes only zeros as state."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    types = {"FP32": TensorProto.FLOAT, "INT32": TensorProto.INT32}

    def tensor(entry: Any) -> onnx.ValueInfoProto:
        kind = types[_pb.DataType.Name(entry.data_type).removeprefix("TYPE_")]
        return helper.make_tensor_value_info(entry.name, kind, ["batch", *entry.dims])

    outputs = [tensor(entry) for entry in config.output if entry.name not in _ELSEWHERE]
    rows = {
        output.name: np.zeros(
            [dim.dim_value for dim in output.type.tensor_type.shape.dim[1:]],
            helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type),
        )
        for output in outputs
    }
    rows["TOKENS"][:_TOKENS] = range(1, 1 + _TOKENS)
    rows["TOKEN_COUNT"][:] = _TOKENS
    rows |= {"UPDATE": np.zeros((1, 1), np.float32), "UPDATE_ROWS": np.zeros(1, np.int64)}
    updates = [
        helper.make_tensor_value_info("UPDATE", TensorProto.FLOAT, ["batch", 1, 1]),
        helper.make_tensor_value_info("UPDATE_ROWS", TensorProto.INT64, ["batch", 1]),
    ]
    pool = [
        helper.make_tensor_value_info("POOL", TensorProto.FLOAT, ["rows", 1]),
        helper.make_tensor_value_info("SLOTS", TensorProto.INT64, ["batch"]),
    ]
    nodes = [helper.make_node("Shape", ["SLOTS"], ["batch_size"])]
    constants: list[onnx.TensorProto] = []
    for name, row in rows.items():
        constants += [
            numpy_helper.from_array(row[np.newaxis], f"{name}_row"),
            numpy_helper.from_array(np.array(row.shape, np.int64), f"{name}_dims"),
        ]
        nodes += [
            helper.make_node("Concat", ["batch_size", f"{name}_dims"], [f"{name}_shape"], axis=0),
            helper.make_node("Expand", [f"{name}_row", f"{name}_shape"], [name]),
        ]
    inputs = [*map(tensor, config.input), *pool]
    graph = helper.make_graph(nodes, "null", inputs, [*outputs, *updates], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    onnx.save(model, path)
