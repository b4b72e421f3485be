"""Frames of streams are counted exactly for years, in every form of the decoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export.checkpoint import Checkpoint, load_checkpoint
from export.formats.onnx_file import export_onnx
from export.formats.onnx_stage import OnnxStage
from export.formats.packed_adapters import PackedAdapters, no_adapter
from export.formats.parts import parts_of
from export.formats.pooled_stage import PooledStage
from export.options import ExportOptions, Serving
from export.spec import ADAPTED
from export.stages.decoder import Decoder
from export.stages.frame_count import SPAN_FRAMES, VALUES, advanced, as_integer, has_begun
from export.stages.unrolled_decoder import UnrolledDecoder
from export.streaming.export import build_stages, spec_of
from export.streaming.spec import StreamingSpec
from export.tensorrt.flat import open_torch
from tests.support.checkpoints import write_random_checkpoint
from tests.support.long_streams import assert_frames_are_exact
from tests.support.project import ADAPTER_RANK

BOTH = torch.tensor([0, 1]).numpy()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint that emits as many tokens as it may, on any input."""
    folder = tmp_path_factory.mktemp("checkpoint") / "c"
    return load_checkpoint(str(write_random_checkpoint(folder, blank_bias=-20.0)))


def spec_for(checkpoint: Checkpoint, chunk_ms: int, rank: int = 0) -> StreamingSpec:
    serving = Serving(adapters=4, adapter_rank=rank) if rank else Serving()
    options = ExportOptions(checkpoint.name, chunk_ms=chunk_ms, layout="fused", serving=serving)
    return spec_of(checkpoint, build_stages(checkpoint, options.frames), options)


@pytest.mark.parametrize("frames", [1, 7, 14])
@pytest.mark.parametrize("start", [0, 2**20 - 1, 2**24 - 1, 2**31 - 40])
def test_every_frame_is_counted(start: int, frames: int) -> None:
    spans, rest = divmod(start, SPAN_FRAMES)
    count = torch.tensor([[1 + spans, rest]], dtype=torch.float32)
    for chunk in range(3):
        assert as_integer(count).item() == start + chunk * frames
        count = advanced(count, torch.tensor([[frames]]))


def test_a_stream_begins_with_its_first_chunk_even_without_a_frame() -> None:
    count = torch.zeros(2, VALUES)
    assert as_integer(count).tolist() == [[0], [0]]
    assert not has_begun(count).any()
    count = advanced(count, torch.tensor([[0], [7]]))
    assert as_integer(count).tolist() == [[0], [7]]
    assert has_begun(count).all()


@pytest.mark.parametrize(("make", "chunk_ms"), [(Decoder, 560), (UnrolledDecoder, 80)])
def test_tokens_have_their_frames_after_weeks(
    checkpoint: Checkpoint, make: type[Decoder], chunk_ms: int
) -> None:
    spec = spec_for(checkpoint, chunk_ms)
    stage = open_torch(make(checkpoint.model, spec.frames), spec.stages[2], 2)
    assert_frames_are_exact(
        lambda inputs: stage.step(inputs, BOTH), stage.states, spec.frames, spec.encoded_size
    )


def test_they_have_them_if_the_loop_is_in_rounds(checkpoint: Checkpoint) -> None:
    spec = spec_for(checkpoint, 560)
    decoder = spec.stages[2]
    parts = parts_of([Decoder(checkpoint.model, spec.frames)], decoder)
    modules = {part.name: part.module for part in parts}
    stage = PooledStage(modules.__getitem__, decoder, 2)
    assert_frames_are_exact(
        lambda inputs: stage.step(inputs, BOTH), stage._pools[0], spec.frames, spec.encoded_size
    )


@pytest.mark.parametrize("rank", [0, ADAPTER_RANK])
def test_they_have_them_in_an_exported_graph(
    checkpoint: Checkpoint, tmp_path: Path, rank: int
) -> None:
    """The graph for batches with adapters is another one."""
    spec = spec_for(checkpoint, 80, rank)
    decoder = spec.stages[2]
    path = tmp_path / (f"{ADAPTED}/model.onnx" if rank else "model.onnx")
    export_onnx([Decoder(checkpoint.model, spec.frames)], decoder, path, rank)
    adapters = PackedAdapters.of_each([no_adapter([decoder])], 2) if rank else None
    stage = OnnxStage(tmp_path / "model.onnx", decoder, 2, adapters)
    assert_frames_are_exact(
        lambda inputs: stage.step(inputs, BOTH),
        stage.pools[0][:, 0],
        spec.frames,
        spec.encoded_size,
    )


@pytest.mark.slow
def test_they_have_them_in_one_graph_of_all_stages(checkpoint: Checkpoint, tmp_path: Path) -> None:
    spec = spec_for(checkpoint, 80)
    export_onnx(build_stages(checkpoint, spec.frames), spec.recognizer, tmp_path / "model.onnx")
    stage = OnnxStage(tmp_path / "model.onnx", spec.recognizer, 2)
    assert_frames_are_exact(
        lambda inputs: stage.step(inputs, BOTH), stage.pools[2][:, 0], spec.chunk_samples
    )
