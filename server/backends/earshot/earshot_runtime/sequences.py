"""A stage that keeps state: one run advances all streams of a batch by one chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from .binding import bind_input, bind_output
from .checks import Arrays, AudioEnds, ContentChecks, Errors
from .chunks import Chunks, Outcome, rounds
from .errors import ChunkError, RunFailed
from .graph import Graph
from .slots import Slots, SlotTable
from .spec import StageSpec, TensorSpec
from .state import StatePool

# Each further power of two would double what warming up adds to the start.
_MAX_WARM_UP_BATCH = 16


class SequenceStage:
    """Turns chunks of many streams into one run of the graph.

    A chunk that is refused leaves its stream as it was, with two exceptions: END always closes
    the stream, and a refused START leaves it closed.
    """

    def __init__(self, spec: StageSpec, graph: Graph) -> None:
        sequence, state = spec.sequence, graph.state
        assert sequence is not None and state is not None
        self.slots = SlotTable(sequence.max_streams, sequence.max_idle_s)
        self._session = graph.session
        self._inputs = _allocate(spec.inputs, spec.max_batch)
        self._outputs = _allocate(spec.outputs, spec.max_batch)
        self._state = StatePool(state, sequence.max_streams, spec.max_batch)
        self._content = ContentChecks(spec)
        self._audio_ends = AudioEnds(spec, sequence.max_streams)
        self._bindings: dict[int, ort.IOBinding] = {}
        self._warm_up(spec.max_batch)

    def _warm_up(self, max_batch: int) -> None:
        """Runs powers of two once: ONNX Runtime plans and allocates on the first run of a size."""
        batch = 1
        while batch <= min(max_batch, _MAX_WARM_UP_BATCH):
            self._run(batch)
            batch *= 2

    def process(self, chunks: Chunks, now_s: float) -> list[Outcome]:
        """One outcome per request. The rows are views, valid until the next call."""
        turns = rounds(chunks.streams)
        if len(turns) == 1:
            return self._process_round(chunks, now_s)
        outcomes: dict[int, Outcome] = {}
        for turn in turns:
            for index, outcome in zip(
                turn, self._process_round(chunks.pick(turn), now_s), strict=True
            ):
                # The next round writes to the same arrays.
                kept = outcome if isinstance(outcome, ChunkError) else _copied(outcome)
                outcomes[index] = kept
        return [outcomes[index] for index in range(len(chunks))]

    def _process_round(self, chunks: Chunks, now_s: float) -> list[Outcome]:
        batch = len(chunks)
        for column, array in zip(chunks.inputs, self._inputs.values(), strict=True):
            np.concatenate(column, out=array[:batch])
        starts = np.array(chunks.starts)
        slots, errors = self._find_slots(chunks, now_s)
        errors = self._reject(batch, slots, starts) | errors
        good = list(range(batch))
        if errors:
            good = [row for row in good if row not in errors]
            slots, starts = slots[good], starts[good]
            self._move_to_front(good)
        if good and (failure := self._advance(slots, starts)):
            errors |= dict.fromkeys(good, failure)
            good = []
        self._close(chunks, errors)
        return self._outcomes(good, errors)

    def _find_slots(self, chunks: Chunks, now_s: float) -> tuple[Slots, Errors]:
        """The slot of each row; rows with an error point to slot 0 and must not run."""
        slots = np.zeros(len(chunks), np.intp)
        errors: Errors = {}
        for row, (stream, starts) in enumerate(zip(chunks.streams, chunks.starts, strict=True)):
            try:
                find = self.slots.open if starts else self.slots.find
                slots[row] = find(stream, now_s)
            except ChunkError as error:
                errors[row] = error
        return slots, errors

    def _reject(self, batch: int, slots: Slots, starts: npt.NDArray[np.bool_]) -> Errors:
        inputs = self._filled_inputs(batch)
        return self._audio_ends.reject(inputs, slots, starts) | self._content.reject(inputs)

    def _move_to_front(self, rows: list[int]) -> None:
        for array in self._inputs.values():
            array[: len(rows)] = array[rows]

    def _filled_inputs(self, batch: int) -> Arrays:
        return {name: array[:batch] for name, array in self._inputs.items()}

    def _advance(self, slots: Slots, starts: npt.NDArray[np.bool_]) -> RunFailed | None:
        """Runs the first rows of the inputs, one per slot, and keeps what changed of the state."""
        batch = len(slots)
        self._state.load(slots, starts)
        try:
            self._run(batch)
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            return RunFailed(f"ONNX Runtime failed on a batch of {batch}: {error}")
        self._state.store(slots)
        self._audio_ends.store(self._filled_inputs(batch), slots)
        return None

    def _run(self, batch: int) -> None:
        binding = self._bindings.get(batch)
        if binding is None:
            binding = self._bindings[batch] = self._bind(batch)
        self._session.run_with_iobinding(binding)

    def _bind(self, batch: int) -> ort.IOBinding:
        binding = self._session.io_binding()
        for name, array in self._inputs.items():
            bind_input(binding, name, array[:batch])
        for name, array in self._outputs.items():
            bind_output(binding, name, array[:batch])
        self._state.bind(binding, batch)
        return binding

    def _close(self, chunks: Chunks, errors: Errors) -> None:
        for row, stream in enumerate(chunks.streams):
            if chunks.ends[row] or (chunks.starts[row] and row in errors):
                self.slots.close(stream)

    def _outcomes(self, good: list[int], errors: Errors) -> list[Outcome]:
        arrays = tuple(self._outputs.values())
        outcomes: dict[int, Outcome] = dict(errors)
        for position, row in enumerate(good):
            outcomes[row] = tuple(array[position : position + 1] for array in arrays)
        return [outcomes[row] for row in range(len(outcomes))]


def _allocate(tensors: tuple[TensorSpec, ...], batch: int) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: np.zeros((batch, *tensor.dims), tensor.dtype) for tensor in tensors}


def _copied(rows: tuple[npt.NDArray[Any], ...]) -> tuple[npt.NDArray[Any], ...]:
    return tuple(row.copy() for row in rows)
