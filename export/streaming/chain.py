"""Run exported stages as the server does: a batch of streams, chunk by chunk, with state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from export.audio import LEAD_SAMPLES, SUBSAMPLING, chunk_count
from export.formats.onnx_stage import Arrays, OnnxStage
from export.spec import StageSpec
from export.streaming.spec import StreamingSpec


@dataclass
class StreamResult:
    """Output of a chain for one stream."""

    mel: list[NDArray[np.float32]] = field(default_factory=list)
    encoded: list[NDArray[np.float32]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    token_frames: list[int] = field(default_factory=list)


Piece = tuple[NDArray[np.float32], int]
"""A chunk of samples or frames, zero-padded to its full length, and its valid length."""


class RunningStage(Protocol):
    """A stage in any runtime, with the state of its streams."""

    def step(self, inputs: Sequence[NDArray[Any]], slots: NDArray[np.int64]) -> Arrays:
        """Process one chunk of the streams in `slots` [B]; see `OnnxStage.step`."""
        ...


OpenStage = Callable[[Path, StageSpec, int], RunningStage]
"""`(path of model.onnx, spec, streams)`: opens a stage."""


class Chain:
    """The models with an engine, connected as in the ensemble.

    Args:
        folder: a model repository, with an engine in `<model>/1` for each of them.
        spec: describes the exported models.
        streams: number of streams in a batch.
        open_stage: opens a stage in the runtime.
    """

    def __init__(
        self,
        folder: Path,
        spec: StreamingSpec,
        streams: int,
        open_stage: OpenStage = OnnxStage,
    ) -> None:
        self.spec = spec
        self.stages = [
            open_stage(folder / stage.name / "1" / "model.onnx", stage, streams)
            for stage in spec.engines
        ]

    def transcribe(self, utterances: Sequence[NDArray[np.float32]]) -> list[StreamResult]:
        """Transcribe utterances of samples [N] in one batch, one stream each.

        Mel and encoder frames are collected only in the layout `stages`.
        """
        return self.transcribe_chunks(chunked(utterances, self.spec.chunk_samples))

    def transcribe_alone(self, utterances: Sequence[NDArray[np.float32]]) -> list[StreamResult]:
        """Transcribe utterances of samples [N] one after the other, each in a slot of its own.

        A batch never has more than one stream. The stages are opened only once, because that takes
        seconds for checkpoints of real sizes.
        """
        results: list[StreamResult] = []
        for slot, stream in enumerate(chunked(utterances, self.spec.chunk_samples)):
            before: list[list[Piece]] = [[] for _ in range(slot)]
            results.append(self.transcribe_chunks([*before, stream])[slot])
        return results

    def transcribe_chunks(self, streams: Sequence[Sequence[Piece]]) -> list[StreamResult]:
        """Transcribe streams that are already cut into chunks, in one batch."""
        results = [StreamResult() for _ in streams]
        for values, slots in _batches(streams):
            for spec, stage in zip(self.spec.engines, self.stages, strict=True):
                values = stage.step(values, slots)
                kind = _COLLECTED.get(spec.role)
                if kind is not None:
                    _collect_frames(results, slots, values, kind)
            _collect_tokens(results, slots, values)
        for result in results:
            _drop_lead(result)
        return results

    def encode(self, mels: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Return the encoder's output for the valid mel frames [M, n_mels] of each utterance."""
        _, encoder, _ = self.stages
        results = [StreamResult() for _ in mels]
        frames = SUBSAMPLING * self.spec.frames
        leads = [np.pad(mel, ((SUBSAMPLING - 1, 0), (0, 0))) for mel in mels]
        for inputs, slots in _batches([_pieces(lead, frames) for lead in leads]):
            _collect_frames(results, slots, encoder.step(inputs, slots), "encoded")
        return [np.concatenate(result.encoded) for result in results]

    def decode(self, encoded: Sequence[NDArray[np.float32]]) -> list[list[int]]:
        """Return the decoder's tokens for the valid encoder frames [E, D] of each utterance."""
        _, _, decoder = self.stages
        results = [StreamResult() for _ in encoded]
        for inputs, slots in _batches([_pieces(frames, self.spec.frames) for frames in encoded]):
            _collect_tokens(results, slots, decoder.step(inputs, slots))
        return [result.tokens for result in results]


_COLLECTED = {"feature_extractor": "mel", "encoder": "encoded"}
"""Stages whose frames are collected, with the field of `StreamResult`."""


def chunked(utterances: Sequence[NDArray[np.float32]], chunk_samples: int) -> list[list[Piece]]:
    """Return the streams that the client would send: lead, audio, zeros up to a whole chunk."""
    streams: list[list[Piece]] = []
    for samples in utterances:
        stream = _pieces(np.pad(samples, (LEAD_SAMPLES, 0)), chunk_samples)
        assert len(stream) == chunk_count(len(samples), chunk_samples)
        streams.append(stream)
    return streams


def _pieces(values: NDArray[np.float32], length: int) -> list[Piece]:
    """Cut `values` [N, ...] into pieces of `length`, the last zero-padded, with valid lengths."""
    pieces: list[Piece] = []
    for start in range(0, max(len(values), 1), length):
        piece = values[start : start + length]
        padding = [(0, length - len(piece)), *[(0, 0)] * (values.ndim - 1)]
        pieces.append((np.pad(piece, padding), len(piece)))
    return pieces


def _batches(
    streams: Sequence[Sequence[Piece]],
) -> Iterator[tuple[Arrays, NDArray[np.int64]]]:
    """Yield `(inputs, slots)` for each step: the next piece of every stream that has one."""
    for step in range(max((len(stream) for stream in streams), default=0)):
        active = [slot for slot, stream in enumerate(streams) if step < len(stream)]
        values = np.stack([streams[slot][step][0] for slot in active])
        lengths = np.array([[streams[slot][step][1]] for slot in active], dtype=np.int32)
        yield [values, lengths], np.array(active, dtype=np.int64)


def _collect_frames(
    results: Sequence[StreamResult], slots: NDArray[np.int64], outputs: Arrays, kind: str
) -> None:
    frames, lengths = outputs
    for row, slot in enumerate(slots):
        getattr(results[slot], kind).append(frames[row, : lengths[row, 0]])


def _collect_tokens(
    results: Sequence[StreamResult], slots: NDArray[np.int64], outputs: Arrays
) -> None:
    tokens, frames, _, counts, _ = outputs
    for row, slot in enumerate(slots):
        count = counts[row, 0]
        results[slot].tokens += tokens[row, :count].tolist()
        results[slot].token_frames += frames[row, :count].tolist()


def _drop_lead(result: StreamResult) -> None:
    """Remove the first seven mel frames of a stream, which precede its audio."""
    if result.mel:
        result.mel = [np.concatenate(result.mel)[SUBSAMPLING - 1 :]]
