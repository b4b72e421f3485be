"""Graphs: those of the stages pass gate, parser and builder, and others are refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from export.checkpoint import Checkpoint, load_checkpoint
from export.errors import BuildFailed, GraphRefused
from export.formats.onnx_file import export_flat_onnx
from export.spec import StageSpec, TensorSpec
from export.stages.decoder import Decoder
from export.stages.layout import StateLayout
from export.stages.state import FlatStage
from export.stages.unrolled_decoder import UnrolledDecoder
from export.tensorrt.engine import build_engine
from export.tensorrt.graph_gate import check_graph
from export.tensorrt.profiles import chunk_profiles
from export.tensorrt.targets import NamedGpus
from export.tensorrt.versions import MAX_OPSET
from tests.support.checkpoints import write_random_checkpoint
from tests.support.tensorrt_graphs import FRAMES, stages_and_spec


def test_the_loop_of_the_other_runtime_is_refused(many_tokens: Checkpoint, tmp_path: Path) -> None:
    _, spec = stages_and_spec(many_tokens, "fp32")
    path = tmp_path / "decoder.onnx"
    export_flat_onnx(Decoder(many_tokens.model, FRAMES), spec.stages[2], path, 20)
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
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), path)
    return path


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, name=f"the_{kind}", **attributes)


def test_a_good_toy_passes(tmp_path: Path) -> None:
    check_graph(toy_graph(tmp_path / "toy.onnx", node("Relu", ["X"], ["Y"])), SPEC)


HALF, INT16 = TensorProto.FLOAT16, TensorProto.INT16


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Unique", ["X"], ["N"]), node("Relu", ["X"], ["Y"])], "the_Unique .*: Unique "),
        ([node("NonZero", ["X"], ["N"]), node("Relu", ["X"], ["Y"])], "the_NonZero .* not found"),
        ([node("DFT", ["X"], ["N"]), node("Relu", ["X"], ["Y"])], "the_DFT .*Plugin not found"),
        ([node("Strange", ["X"], ["Y"], domain="mine")], "the_Strange .*Plugin not found"),
        (
            [
                helper.make_node("Cast", ["X"], ["N"], name="to_int16", to=INT16),
                node("Cast", ["N"], ["Y"], to=TensorProto.FLOAT),
            ],
            "to_int16 .*Unsupported data type",
        ),
    ],
)
def test_nvidias_parser_refuses_a_node_and_says_why(
    tmp_path: Path, nodes: list[onnx.NodeProto], message: str
) -> None:
    path = toy_graph(tmp_path / "toy.onnx", *nodes)
    with pytest.raises(GraphRefused, match=rf"toy: .*parser refuses .*toy\.onnx:\n.* {message}"):
        build_engine(path, SPEC, chunk_profiles(SPEC, 4), NamedGpus(("sm89",)))


def test_a_failed_build_shows_the_log_of_tensorrt(tmp_path: Path) -> None:
    """Also after another build: TensorRT keeps the first logger of a process."""
    good = toy_graph(tmp_path / "good.onnx", node("Relu", ["X"], ["Y"]))
    assert build_engine(good, SPEC, chunk_profiles(SPEC, 4), NamedGpus(("sm80",))).layers == 2
    scale, zero = (
        node("Constant", [], [name], value=helper.make_tensor("", kind, [], [value]))
        for name, kind, value in (
            ("scale", TensorProto.FLOAT, 0.1),
            ("zero", TensorProto.FLOAT8E4M3FN, 0),
        )
    )
    quantized = toy_graph(
        tmp_path / "fp8.onnx",
        scale,
        zero,
        node("QuantizeLinear", ["X", "scale", "zero"], ["Q"]),
        node("DequantizeLinear", ["Q", "scale", "zero"], ["Y"]),
    )
    with pytest.raises(BuildFailed, match=r"toy: TensorRT built no engine\n.*sm80.* fp8"):
        build_engine(quantized, SPEC, chunk_profiles(SPEC, 4), NamedGpus(("sm80",)))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("ReduceLogSumExp", ["X"], ["Y"])], "the_ReduceLogSumExp .* overflow"),
        (
            [
                helper.make_node("Cast", ["X"], ["N"], name="to_double", to=TensorProto.DOUBLE),
                node("Cast", ["N"], ["Y"], to=TensorProto.FLOAT),
            ],
            r"to_double \(Cast\) works in DOUBLE",
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


def test_an_opset_that_the_parser_does_not_know_is_refused(tmp_path: Path) -> None:
    path = toy_graph(tmp_path / "toy.onnx", node("Relu", ["X"], ["Y"]))
    model = onnx.load(path)
    model.opset_import[0].version = MAX_OPSET + 1
    onnx.save(model, path)
    with pytest.raises(GraphRefused, match=f"expected an opset up to {MAX_OPSET}, got"):
        check_graph(path, SPEC)


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
    model, frames = load_checkpoint(str(folder)).model, 4
    loop, straight = Decoder(model, frames), UnrolledDecoder(model, frames)
    torch.manual_seed(0)
    state = torch.zeros(5, loop.layout.size)
    counts = []
    for _ in range(12):
        encoded = torch.randn(5, frames, model.config.decoder_hidden_size)
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
