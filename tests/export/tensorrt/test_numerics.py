"""Half precision without a GPU: its token difference, and refused overflows and differences."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.checkpoint import Checkpoint
from export.errors import ParityFailed, UnsupportedOption
from export.precision.ranges import long_utterances
from export.recordings import load_recordings
from export.spec import StageSpec
from export.stages.encoder import Encoder
from export.streaming.chain import OpenStage, RunningStage
from export.streaming.parity import check_parity
from export.streaming.reference import transcribe
from export.tensorrt.flat import StatefulStage, open_onnx, open_torch
from export.tensorrt.numerics import measure
from export.tensorrt.stages import tensorrt_stages
from export.tensorrt.verify import compare_stages, reference_of
from tests.support.long_streams import assert_frames_are_exact
from tests.support.tensorrt_graphs import FRAMES, FlatGraphs, stages_and_spec


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    return [recording.samples for recording in load_recordings()[:4]]


def test_float32_graphs_match_transformers(
    many_tokens: Checkpoint, flat_graphs: FlatGraphs, speech: list[np.ndarray]
) -> None:
    """Flat state, straight-line decoder, in ONNX Runtime: every token and frame."""
    graphs = flat_graphs("fp32")
    opened: list[str] = []

    def open_stage(path: Path, stage: StageSpec, streams: int) -> RunningStage:
        opened.append(stage.name)
        return open_onnx(path, stage, streams)

    parity = check_parity(many_tokens, graphs.folder, graphs.spec, speech[:2], open_stage)
    assert len(opened) == 3 * len(graphs.spec.stages), "however many utterances there are"
    assert parity.reference_tokens > 100
    assert parity.chain_token_difference == 0
    assert parity.token_frames_equal


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tokens_have_their_frames_after_weeks(flat_graphs: FlatGraphs, precision: str) -> None:
    graphs = flat_graphs(precision)
    spec = graphs.spec.stages[2]
    stage = open_onnx(graphs.folder / spec.name / "1" / "model.onnx", spec, 2)
    assert_frames_are_exact(
        lambda inputs: stage.step(inputs, np.array([0, 1])), stage.states, *spec.inputs[0].dims
    )


def test_half_weights_leave_the_checkpoint_alone(many_tokens: Checkpoint) -> None:
    tensorrt_stages(many_tokens, FRAMES, "fp16")
    assert {weight.dtype for weight in many_tokens.model.parameters()} == {torch.float32}


def test_half_state_is_the_encoders_alone(many_tokens: Checkpoint) -> None:
    """Counts that grow with the stream are not exact in half precision."""
    for precision, dtype in {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16", "fp8": "FP16"}.items():
        layouts = [stage.layout for stage in tensorrt_stages(many_tokens, FRAMES, precision)]
        assert [layout.dtype for layout in layouts] == ["FP32", dtype, "FP32"]
        assert layouts[1].bytes == (4 if dtype == "FP32" else 2) * layouts[1].size


def test_fp16_is_measured_with_chained_state(
    many_tokens: Checkpoint, speech: list[np.ndarray], flat_graphs: FlatGraphs
) -> None:
    graphs = flat_graphs("fp16")
    folder, stages, spec = graphs.folder, graphs.stages, graphs.spec
    utterances = long_utterances(speech, 2)
    references = transcribe(many_tokens, utterances, lookahead=FRAMES - 1)
    numerics = measure(folder, stages, spec, utterances, references)
    assert numerics.audio_seconds > 30
    assert numerics.token_difference < 0.05
    assert numerics.onnx_token_difference is not None
    assert numerics.onnx_token_difference < 0.05
    assert numerics.limit == 65504
    assert any("attention" in where for where in numerics.largest)
    assert 1 < max(numerics.largest.values()) < 65504 / 4


def test_overflow_is_refused_by_name(
    many_tokens: Checkpoint, speech: list[np.ndarray], flat_graphs: FlatGraphs
) -> None:
    graphs = flat_graphs("fp16")
    features, encoder, decoder = graphs.stages
    assert isinstance(encoder, Encoder)
    overflowing: Any = copy.deepcopy(encoder)
    with torch.no_grad():
        overflowing.layers[0].feed_forward1.linear1.weight.mul_(200_000)
    references = transcribe(many_tokens, speech[:1], lookahead=FRAMES - 1)
    with pytest.raises(ParityFailed, match=r"half precision reaches \S+ at .*layers\.0\.feed_forw"):
        measure(
            graphs.folder,
            (features, overflowing, decoder),
            graphs.spec,
            speech[:1],
            references,
        )


def test_a_decoder_of_any_name_is_compared_by_its_tokens(
    many_tokens: Checkpoint, speech: list[np.ndarray]
) -> None:
    spec = replace(stages_and_spec(many_tokens, "fp32")[1], name="clinic_v2")
    dtypes = {"FP32": np.float32, "INT32": np.int32}

    def open_silent(path: Path, stage: StageSpec, streams: int) -> StatefulStage:
        def run(inputs: Sequence[np.ndarray], state: np.ndarray) -> list[np.ndarray]:
            zeros = [np.zeros((len(state), *t.dims), dtypes[t.dtype]) for t in stage.outputs]
            return [*zeros, state]

        return StatefulStage(run, stage, streams)

    def open_elsewhere(role: str) -> OpenStage:
        def open_moved(path: Path, stage: StageSpec, streams: int) -> StatefulStage:
            running = open_silent(path, stage, streams)
            running.states += stage.role == role
            return running

        return open_moved

    differences = compare_stages(Path(), spec, speech[:1], open_silent, open_elsewhere("decoder"))
    assert differences["clinic_v2_decoder"].final_state == 1
    with pytest.raises(ParityFailed, match="clinic_v2_encoder: the engine differs"):
        compare_stages(Path(), spec, speech[:1], open_silent, open_elsewhere("encoder"))


def test_two_runtimes_of_one_graph_agree_and_others_do_not(
    speech: list[np.ndarray], flat_graphs: FlatGraphs
) -> None:
    """`make gpu-verify` compares engines so; here ONNX Runtime and torch are compared."""
    graphs = flat_graphs("fp16")
    folder, stages, spec = graphs.folder, graphs.stages, graphs.spec
    by_name = dict(zip((stage.name for stage in spec.stages), stages, strict=True))

    def open_stage(path: Path, stage: StageSpec, streams: int) -> RunningStage:
        return open_torch(by_name[stage.name], stage, streams)

    def open_wrong(path: Path, stage: StageSpec, streams: int) -> StatefulStage:
        running = open_torch(by_name[stage.name], stage, streams)
        if stage.name == "encoder":
            running.states += 0.5
        return running

    reference = reference_of(stages, spec)
    differences = compare_stages(folder, spec, speech[:1], open_stage, reference)
    assert 0 < differences["encoder"].outputs < 0.05
    assert 0 < differences["encoder"].final_state < 0.05
    with pytest.raises(ParityFailed, match="encoder: the engine differs from its ONNX file"):
        compare_stages(folder, spec, speech[:1], open_wrong, reference)


def test_a_ring_that_half_precision_cannot_count_is_refused(
    tmp_path: Path, many_tokens: Checkpoint
) -> None:
    longer = copy.copy(many_tokens.model)
    longer.config = copy.deepcopy(many_tokens.model.config)
    longer.config.encoder_config.sliding_window = 2000
    wide = Checkpoint("wide", longer, many_tokens.processor, "")
    with pytest.raises(UnsupportedOption, match="bf16 counts to 256 and the ring has 999 blocks"):
        tensorrt_stages(wide, FRAMES, "bf16")
