"""Run exported offline stages as the server does: a padded batch through all stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.formats.onnx_stage import Arrays
from export.offline.spec import OfflineSpec
from export.spec import StageSpec

Samples = NDArray[np.float32]
RunOfflineStage = Callable[..., Arrays]
"""`(*inputs) -> outputs`, with the batch as the first axis."""
OpenOfflineStage = Callable[[Path, StageSpec], RunOfflineStage]
"""`(path of model.onnx, spec)`: opens a stage."""
_MOST_ROWS = 16
"""More rows would need more memory for the attention and be no faster."""


@dataclass(frozen=True)
class OfflineResult:
    """Output of a chain for one utterance; shapes as in `ReferenceResult`."""

    tokens: list[int]
    token_frames: list[int]
    mel: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """Empty, like `encoded`, if the stages are fused."""
    encoded: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))


class OfflineChain:
    """The models with an engine, connected as in the ensemble.

    Args:
        folder: a model repository, with an engine in `<model>/1` for each of them.
        spec: describes the exported models.
        open_stage: opens a stage in the runtime.
    """

    def __init__(self, folder: Path, spec: OfflineSpec, open_stage: OpenOfflineStage) -> None:
        self.spec = spec
        self.stages = [
            open_stage(folder / stage.name / "1" / "model.onnx", stage) for stage in spec.engines
        ]

    def transcribe(
        self,
        utterances: Sequence[Samples],
        *,
        together: bool = True,
        adapters: NDArray[np.int64] | None = None,
    ) -> list[OfflineResult]:
        """Transcribe utterances of samples [N], padded to buckets.

        Args:
            together: transcribe them in batches, padded to the bucket of the longest utterance,
                instead of one by one.
            adapters: the slot of each utterance's adapter, for stages that take them.
        """
        size = _MOST_ROWS if together else 1
        results: list[OfflineResult] = []
        for start in range(0, len(utterances), size):
            end = start + size
            slots = () if adapters is None else (adapters[start:end],)
            results += self._batch(utterances[start:end], slots)
        return results

    def encode(self, mels: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Return the encoder's output for the valid mel frames [M, n_mels] of each utterance."""
        _, encoder, _ = self.stages
        encoded, lengths = encoder(*self._padded(mels, self.spec.stages[1]))
        return [rows[: length[0]] for rows, length in zip(encoded, lengths, strict=True)]

    def decode(self, encoded: Sequence[NDArray[np.float32]]) -> list[list[int]]:
        """Return the decoder's tokens for the valid encoder frames [E, D] of each utterance."""
        *_, decoder = self.stages
        decoded = decoder(*self._padded(encoded, self.spec.stages[2]))
        return [self._tokens(decoded, row)[0] for row in range(len(encoded))]

    def _batch(
        self, utterances: Sequence[Samples], slots: tuple[NDArray[np.int64], ...]
    ) -> list[OfflineResult]:
        values: Sequence[NDArray[Any]] = self._padded(utterances, self.spec.engines[0])
        frames: list[Sequence[NDArray[Any]]] = []
        *before, last = self.stages
        for stage in before:
            values = stage(*values, *slots)
            frames.append(values)
        decoded = last(*values, *slots)
        return [
            OfflineResult(
                *self._tokens(decoded, row),
                *(rows[row, : lengths[row, 0]] for rows, lengths in frames),
            )
            for row in range(len(utterances))
        ]

    def _padded(
        self, values: Sequence[NDArray[np.float32]], stage: StageSpec
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Return `values` [N, ...] of all utterances as one array [B, length, ...], and all N.

        They are the inputs of a stage; `length` is the bucket of the longest utterance.
        """
        longest = max(map(len, values))
        length = next(length for length in self.spec.lengths(stage.inputs) if length >= longest)
        batch = np.zeros((len(values), length, *values[0].shape[1:]), dtype=np.float32)
        for row, value in zip(batch, values, strict=True):
            row[: len(value)] = value
        return batch, np.array([[len(value)] for value in values], dtype=np.int32)

    def _tokens(self, decoded: Arrays, row: int) -> tuple[list[int], list[int]]:
        """Return tokens and their frames; CTC labels are collapsed as in the backend."""
        if self.spec.ctc_blank is None:
            tokens, frames, _, counts = decoded
            count = counts[row, 0]
            return tokens[row, :count].tolist(), frames[row, :count].tolist()
        labels = decoded[0][row].tolist()
        runs = [
            (label, next(frames))
            for label, frames in groupby(range(len(labels)), labels.__getitem__)
        ]
        tokens = [(label, frame) for label, frame in runs if label != self.spec.ctc_blank]
        return [label for label, _ in tokens], [frame for _, frame in tokens]
