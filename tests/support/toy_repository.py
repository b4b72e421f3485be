"""A tiny recognizer-shaped repository: two stages with state in an ensemble.

`summer` keeps the running sum of a stream's AUDIO, `accumulator` the running sum of those sums:
one wrong, lost or mixed state row shows in the second number for the rest of the stream.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import onnx
from onnx import TensorProto, helper

CHUNK_SAMPLES = 8
MAX_ABS = 8
MAX_STREAMS = 64
MAX_IDLE_S = 10.0
LONG_IDLE_S = 600.0
"""For tests in which no stream should expire, however slow the machine is."""

STAGE_CONFIG = """
name: "{name}"
backend: "earshot"
max_batch_size: 16
{tensors}
sequence_batching {{
  max_sequence_idle_microseconds: {idle_us}
  oldest {{ max_candidate_sequences: 128 max_queue_delay_microseconds: 1000 }}
}}
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
parameters [
  {{ key: "max_streams" value {{ string_value: "{max_streams}" }} }},
  {{ key: "state_rows" value {{ string_value: "{state_rows}" }} }},
  {{ key: "intra_op_threads" value {{ string_value: "1" }} }}
  {parameters}
]
"""

SUMMER_TENSORS = f"""
input [
  {{ name: "AUDIO" data_type: TYPE_FP32 dims: [ {CHUNK_SAMPLES} ] }},
  {{ name: "AUDIO_LENGTH" data_type: TYPE_INT32 dims: [ 1 ] }}
]
output [ {{ name: "SUM" data_type: TYPE_FP32 dims: [ 1 ] }} ]
"""

SUMMER_PARAMETERS = f""",
  {{ key: "bounded_inputs" value {{ string_value: "AUDIO" }} }},
  {{ key: "max_abs" value {{ string_value: "{MAX_ABS}" }} }},
  {{ key: "length_input" value {{ string_value: "AUDIO_LENGTH" }} }},
  {{ key: "length_of" value {{ string_value: "AUDIO" }} }}
"""

ACCUMULATOR_TENSORS = """
input [ { name: "SUM" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [
  { name: "TOTAL" data_type: TYPE_FP32 dims: [ 1 ] },
  { name: "CHUNKS" data_type: TYPE_INT32 dims: [ 1 ] }
]
"""

ENSEMBLE_CONFIG = f"""
name: "toy_streaming"
platform: "ensemble"
max_batch_size: 16
{SUMMER_TENSORS.partition("output")[0]}
output [
  {{ name: "SUM" data_type: TYPE_FP32 dims: [ 1 ] }},
  {{ name: "TOTAL" data_type: TYPE_FP32 dims: [ 1 ] }},
  {{ name: "CHUNKS" data_type: TYPE_INT32 dims: [ 1 ] }}
]
ensemble_scheduling {{
  step [
    {{
      model_name: "summer" model_version: -1
      input_map {{ key: "AUDIO" value: "AUDIO" }}
      input_map {{ key: "AUDIO_LENGTH" value: "AUDIO_LENGTH" }}
      output_map {{ key: "SUM" value: "SUM" }}
    }},
    {{
      model_name: "accumulator" model_version: -1
      input_map {{ key: "SUM" value: "SUM" }}
      output_map {{ key: "TOTAL" value: "TOTAL" }}
      output_map {{ key: "CHUNKS" value: "CHUNKS" }}
    }}
  ]
}}
"""


def write_toy_repository(
    folder: Path, *, max_streams: int = MAX_STREAMS, max_idle_s: float = MAX_IDLE_S
) -> Path:
    """Write the repository to `folder` and return it."""
    stage = partial(_write_stage, folder, max_streams=max_streams, max_idle_s=max_idle_s)
    stage("summer", SUMMER_TENSORS, summer_graph(), state_rows=1, parameters=SUMMER_PARAMETERS)
    stage("accumulator", ACCUMULATOR_TENSORS, accumulator_graph(), state_rows=3)
    write_config(folder, "toy_streaming", ENSEMBLE_CONFIG)
    return folder


def _write_stage(
    folder: Path,
    name: str,
    tensors: str,
    graph: onnx.GraphProto,
    *,
    max_streams: int,
    max_idle_s: float,
    state_rows: int,
    parameters: str = "",
) -> None:
    config = STAGE_CONFIG.format(
        name=name,
        tensors=tensors,
        parameters=parameters,
        max_streams=max_streams,
        state_rows=state_rows,
        idle_us=int(max_idle_s * 1e6),
    )
    write_config(folder, name, config)
    save(graph, folder / name / "1" / "model.onnx")


def write_config(folder: Path, name: str, config: str) -> None:
    """Write a model's config and its version folder."""
    path = folder / name / "config.pbtxt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config)
    (folder / name / "1").mkdir(exist_ok=True)


def save(graph: onnx.GraphProto, path: Path) -> None:
    """Save a graph as an ONNX model."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    onnx.save(model, path)


def summer_graph() -> onnx.GraphProto:
    """SUM = STATE + sum(AUDIO), the state is one row of one value.

    AUDIO_LENGTH only goes along; the backend's checks read it.
    """
    node = helper.make_node
    return helper.make_graph(
        [
            node("Gather", ["POOL", "SLOTS"], ["state"], axis=0),
            node("ReduceSum", ["AUDIO", "axis"], ["chunk_sum"], keepdims=1),
            node("Cast", ["AUDIO_LENGTH"], ["length"], to=TensorProto.FLOAT),
            node("Mul", ["length", "zero"], ["nothing"]),
            node("Add", ["chunk_sum", "nothing"], ["checked_sum"]),
            node("Add", ["state", "checked_sum"], ["SUM"]),
            node("Unsqueeze", ["SUM", "axis"], ["UPDATE"]),
            node("Mul", ["AUDIO_LENGTH", "zero_int"], ["row_0"]),
            node("Cast", ["row_0"], ["UPDATE_ROWS"], to=TensorProto.INT64),
        ],
        "summer",
        [_floats("AUDIO", CHUNK_SAMPLES), _ints("AUDIO_LENGTH", 1), *_pool(width=1)],
        [_floats("SUM", 1), *_update(rows=1, width=1)],
        [
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("zero_int", TensorProto.INT32, [], [0]),
        ],
    )


def damaged_summer_graph() -> onnx.GraphProto:
    """`summer` with a damaged weight: it loads, and no output is finite."""
    graph = summer_graph()
    for tensor in graph.initializer:
        if tensor.name == "zero":
            tensor.CopyFrom(helper.make_tensor("zero", TensorProto.FLOAT, [], [float("inf")]))
    return graph


def hanging_summer_graph() -> onnx.GraphProto:
    """`summer` that does not end on a chunk with a value of `MAX_ABS`."""
    node = helper.make_node
    scalar = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", ["go_on"], ["goes_on"]), node("Mul", ["before", "one"], ["after"])],
        "round",
        [
            scalar("round_number", TensorProto.INT64, []),
            scalar("go_on", TensorProto.BOOL, []),
            scalar("before", TensorProto.FLOAT, []),
        ],
        [scalar("goes_on", TensorProto.BOOL, []), scalar("after", TensorProto.FLOAT, [])],
        [helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])],
    )
    graph = _changed_sum(
        [
            node("ReduceMax", ["AUDIO"], ["peak"], keepdims=0),
            node("Sub", ["peak", "harmless"], ["excess"]),
            node("Relu", ["excess"], ["harm"]),
            node("Mul", ["harm", "ages"], ["rounds_as_float"]),
            node("Cast", ["rounds_as_float"], ["rounds"], to=TensorProto.INT64),
            node("Loop", ["rounds", "", "zero"], ["change"], body=body),
        ]
    )
    graph.initializer.extend(
        [
            helper.make_tensor("harmless", TensorProto.FLOAT, [], [MAX_ABS - 1.0]),
            helper.make_tensor("ages", TensorProto.FLOAT, [], [1e15]),
        ]
    )
    return graph


def _changed_sum(nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
    """`summer` with `nodes`, of which one computes `change`, which is added to every SUM."""
    graph = summer_graph()
    for node in graph.node:
        if node.output[0] == "SUM":
            node.output[0] = "sum_of_base"
    add = helper.make_node("Add", ["sum_of_base", "change"], ["SUM"])
    at = next(i for i, node in enumerate(graph.node) if node.output[0] == "UPDATE")
    changed = [*graph.node[:at], *nodes, add, *graph.node[at:]]
    del graph.node[:]
    graph.node.extend(changed)
    return graph


def adapted_summer_graph() -> onnx.GraphProto:
    """`summer` with adapters of one value, which is added to every SUM."""
    gather = helper.make_node("Gather", ["ADAPTER_POOL", "ADAPTER_SLOTS"], ["change"], axis=0)
    graph = _changed_sum([gather])
    graph.input.extend(
        [
            helper.make_tensor_value_info("ADAPTER_POOL", TensorProto.FLOAT, ["adapters", 1]),
            helper.make_tensor_value_info("ADAPTER_SLOTS", TensorProto.INT64, ["batch"]),
        ]
    )
    return graph


def stateless_summer_graph() -> onnx.GraphProto:
    """The inputs and outputs of `summer` without its state: no stage of this backend."""
    return helper.make_graph(
        [helper.make_node("ReduceSum", ["AUDIO", "axis"], ["SUM"], keepdims=1)],
        "stateless_summer",
        [_floats("AUDIO", CHUNK_SAMPLES), _ints("AUDIO_LENGTH", 1)],
        [_floats("SUM", 1)],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )


def accumulator_graph() -> onnx.GraphProto:
    """TOTAL and CHUNKS add up SUM and 1.

    The state has three rows of one value: a row that is never written, TOTAL, CHUNKS.
    """
    node = helper.make_node
    return helper.make_graph(
        [
            node("Unsqueeze", ["SLOTS", "axis"], ["slots"]),
            node("Mul", ["slots", "state_rows"], ["first_row"]),
            node("Add", ["first_row", "row_numbers"], ["pool_rows"]),
            node("Gather", ["POOL", "pool_rows"], ["state"], axis=0),
            node("Unsqueeze", ["SUM", "axis"], ["sum"]),
            node("Mul", ["sum", "one_zero"], ["sum_zero"]),
            node("Add", ["sum_zero", "zero_one"], ["step"]),
            node("Add", ["state", "step"], ["UPDATE"]),
            node("Split", ["UPDATE"], ["total", "count"], axis=1, num_outputs=2),
            node("Squeeze", ["total", "axis"], ["TOTAL"]),
            node("Squeeze", ["count", "axis"], ["chunks"]),
            node("Cast", ["chunks"], ["CHUNKS"], to=TensorProto.INT32),
            node("Mul", ["slots", "zero_int"], ["no_rows"]),
            node("Add", ["no_rows", "row_numbers"], ["UPDATE_ROWS"]),
        ],
        "accumulator",
        [_floats("SUM", 1), *_pool(width=1)],
        [_floats("TOTAL", 1), _ints("CHUNKS", 1), *_update(rows=2, width=1)],
        [
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("state_rows", TensorProto.INT64, [], [3]),
            helper.make_tensor("row_numbers", TensorProto.INT64, [1, 2], [1, 2]),
            helper.make_tensor("zero_int", TensorProto.INT64, [], [0]),
            helper.make_tensor("zero_one", TensorProto.FLOAT, [1, 2, 1], [0.0, 1.0]),
            helper.make_tensor("one_zero", TensorProto.FLOAT, [1, 2, 1], [1.0, 0.0]),
        ],
    )


def _pool(width: int) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info("POOL", TensorProto.FLOAT, ["pool_rows", width]),
        helper.make_tensor_value_info("SLOTS", TensorProto.INT64, ["batch"]),
    ]


def _update(rows: int, width: int) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info("UPDATE", TensorProto.FLOAT, ["batch", rows, width]),
        helper.make_tensor_value_info("UPDATE_ROWS", TensorProto.INT64, ["batch", rows]),
    ]


def _floats(name: str, size: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])


def _ints(name: str, size: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", size])
