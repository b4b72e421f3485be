"""The graph gate: the graphs of the stages pass, and others are refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from export.checkpoint import Checkpoint, load_checkpoint
from export.errors import GraphRefused
from export.formats.onnx_file import export_flat_onnx
from export.options import ExportOptions
from export.spec import StageSpec, TensorSpec
from export.stages.decoder import Decoder
from export.stages.half import Stages
from export.stages.layout import StateLayout
from export.stages.state import FlatStage
from export.stages.unrolled_decoder import UnrolledDecoder
from export.streaming.export import spec_of
from export.streaming.spec import StreamingSpec
from export.tensorrt.export import write_graphs
from export.tensorrt.graph_gate import check_graph
from export.tensorrt.stages import tensorrt_stages
from tests.support.checkpoints import write_random_checkpoint

CHUNK_MS, FRAMES = 320, 4


@pytest.fixture(scope="module")
def checkpoint(random_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(random_checkpoint))


def stages_and_spec(checkpoint: Checkpoint, precision: str) -> tuple[Stages, StreamingSpec]:
    stages = tensorrt_stages(checkpoint, FRAMES, precision)
    options = ExportOptions(
        checkpoint.name, chunk_ms=CHUNK_MS, runtime="tensorrt", precision=precision
    )
    return stages, spec_of(checkpoint, stages, options)


def test_the_graphs_of_every_stage_pass(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """In bf16, which cannot run here; fp32 and fp16 pass in the tests that run them."""
    stages, spec = stages_and_spec(checkpoint, "bf16")
    write_graphs(tmp_path, stages, spec, [], lambda step: None)
    assert len(list(tmp_path.glob("*/1/model.onnx"))) == 3


def test_the_loop_of_the_other_runtime_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    _, spec = stages_and_spec(checkpoint, "fp32")
    path = tmp_path / "decoder.onnx"
    export_flat_onnx(Decoder(checkpoint.model, FRAMES), spec.stages[2], path, 20)
    with pytest.raises(GraphRefused, match=r"decoder: node \S+ is a Loop: .* straight-line"):
        check_graph(path, spec.stages[2])


SPEC = StageSpec(
    "toy",
    (TensorSpec("X", "FP32", (4,)),),
    (TensorSpec("Y", "FP32", (4,)),),
    StateLayout(rows=1, width=4),
)


def toy_graph(path: Path, *nodes: onnx.NodeProto, **extra: list[onnx.ValueInfoProto]) -> Path:
    """Save a graph of `nodes` from X [B, 4] to Y that passes on its state."""

    def tensor(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4])

    keep = helper.make_node("Identity", ["STATE"], ["NEXT_STATE"], name="keep")
    graph = helper.make_graph(
        [*nodes, keep],
        "toy",
        [tensor("X"), tensor("STATE"), *extra.get("inputs", [])],
        [tensor("Y"), tensor("NEXT_STATE"), *extra.get("outputs", [])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, name=f"the_{kind}", **attributes)


def test_a_good_toy_passes(tmp_path: Path) -> None:
    check_graph(toy_graph(tmp_path / "toy.onnx", node("Relu", ["X"], ["Y"])), SPEC)


HALF, INT16 = TensorProto.FLOAT16, TensorProto.INT16


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("NonZero", ["X"], ["N"]), node("Relu", ["X"], ["Y"])], "the_NonZero is a NonZero"),
        ([node("ReduceLogSumExp", ["X"], ["Y"])], "the_ReduceLogSumExp .* overflow"),
        ([node("Gelu", ["X"], ["Y"])], "the_Gelu is a Gelu: not among"),
        (
            [
                helper.make_node("Cast", ["X"], ["N"], name="to_int16", to=INT16),
                node("Cast", ["N"], ["Y"], to=TensorProto.FLOAT),
            ],
            "to_int16 .* type INT16",
        ),
        (
            [
                helper.make_node("Cast", ["X"], ["H"], name="to_half", to=HALF),
                node("Softmax", ["H"], ["S"]),
                node("Cast", ["S"], ["Y"], to=TensorProto.FLOAT),
            ],
            r"the_Softmax \(Softmax\) works in FP16, allowed is FP32",
        ),
    ],
)
def test_a_bad_node_is_refused_by_name(
    tmp_path: Path, nodes: list[onnx.NodeProto], message: str
) -> None:
    with pytest.raises(GraphRefused, match=f"toy: node {message}"):
        check_graph(toy_graph(tmp_path / "toy.onnx", *nodes), SPEC)


def test_a_shape_that_depends_on_values_is_refused(tmp_path: Path) -> None:
    nodes = [node("ConstantOfShape", ["SHAPE"], ["E"]), node("Relu", ["X"], ["Y"])]
    path = toy_graph(tmp_path / "toy.onnx", *nodes)
    model = onnx.load(path)
    model.graph.input.insert(1, helper.make_tensor_value_info("SHAPE", TensorProto.INT64, [2]))
    onnx.save(model, path)
    shaped = replace(SPEC, inputs=(*SPEC.inputs, TensorSpec("SHAPE", "INT64", ())))
    with pytest.raises(GraphRefused, match=r"the_ConstantOfShape .* gives E with the free axes"):
        check_graph(path, shaped)


def test_a_second_state_is_refused(tmp_path: Path) -> None:
    second = helper.make_tensor_value_info("SECOND", TensorProto.FLOAT, ["batch", 4])
    nodes = [node("Relu", ["X"], ["Y"]), node("Identity", ["SECOND"], ["NEXT_SECOND"])]
    following = helper.make_tensor_value_info("NEXT_SECOND", TensorProto.FLOAT, ["batch", 4])
    path = toy_graph(tmp_path / "toy.onnx", *nodes, inputs=[second], outputs=[following])
    with pytest.raises(GraphRefused, match=r"got X .*, STATE .*, SECOND FP32"):
        check_graph(path, SPEC)


def test_a_state_of_another_type_is_refused(tmp_path: Path) -> None:
    half = StageSpec("toy", SPEC.inputs, SPEC.outputs, StateLayout(rows=1, width=4, dtype="FP16"))
    with pytest.raises(GraphRefused, match=r"expected .*STATE FP16 \[4\], got .*STATE FP32 \[4\]"):
        check_graph(toy_graph(tmp_path / "toy.onnx", node("Relu", ["X"], ["Y"])), half)


@torch.inference_mode()
@pytest.mark.parametrize("blank_bias", [3.0, -2.0, -20.0])
def test_straight_line_decoder_equals_the_loop(tmp_path: Path, blank_bias: float) -> None:
    """From a checkpoint with few tokens to one that always emits the most symbols per frame."""
    folder = write_random_checkpoint(tmp_path / "many-tokens", blank_bias=blank_bias)
    model = load_checkpoint(str(folder)).model
    loop, straight = Decoder(model, FRAMES), UnrolledDecoder(model, FRAMES)
    torch.manual_seed(0)
    state = torch.zeros(5, loop.layout.size)
    counts = []
    for _ in range(12):
        encoded = torch.randn(5, FRAMES, model.config.decoder_hidden_size)
        length = torch.tensor([[4], [4], [0], [3], [1]], dtype=torch.int32)
        expected = FlatStage(loop)(encoded, length, state)
        got = FlatStage(straight)(encoded, length, state)
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, theirs)
            assert ours.dtype == theirs.dtype
        state = got[-1]
        counts.append(got[3][0].item())
    assert sum(counts) > 0
    if blank_bias == -20.0:
        assert counts == [loop.dims.max_tokens] * 12
