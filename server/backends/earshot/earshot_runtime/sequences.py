"""Run a stage with state: one run advances all streams of a batch by one chunk."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .adapters import AdapterSlots, LoadedAdapters, StreamAdapters
from .checks import Arrays, AudioEnds, ContentChecks, Errors, reject_outputs
from .chunks import Chunks, Outcome, Rows, rounds
from .counts import LIVE_STREAMS, Counts, Sample
from .endings import Endings
from .engine import Engine
from .errors import ChunkError, RunFailed, Saturated
from .slots import Slots, SlotTable
from .spec import StageSpec

if TYPE_CHECKING:  # it imports a library that other stages do not need
    from .text import Texts


class SequenceStage:
    """Runs the chunks of many streams as one batch of the engine.

    A chunk that is refused leaves its stream as it was, with two exceptions: END always closes
    the stream, here and in the later stages, and a refused START leaves it closed.

    A canary is never refused for lack of a slot: it runs in the spare one, and leaves no state.
    """

    def __init__(
        self,
        spec: StageSpec,
        engine: Engine,
        adapters: LoadedAdapters | None = None,
        texts: Texts | None = None,
    ) -> None:
        """Serve `spec` on `engine`.

        Args:
            adapters: the adapters of a stage that adapters change.
            texts: computes the text outputs of a stage that has any.
        """
        sequence = spec.sequence
        assert sequence is not None
        self.slots = SlotTable(sequence.max_streams, sequence.max_idle_s)
        self._engine = engine
        slots = sequence.max_streams + 1  # with the spare one
        self._adapters = adapters and StreamAdapters(adapters, slots)
        self._inputs = engine.inputs
        self._content = ContentChecks(spec)
        self._most_streams: int | None = None
        self._counts = Counts()
        self._endings = Endings(spec)
        self._texts = texts
        self._audio_ends = AudioEnds(spec, slots)

    def process(
        self, chunks: Chunks, now_s: float, *, most_streams: int | None = None
    ) -> list[Outcome]:
        """Return one outcome per request; its rows are views, valid until the next call.

        Args:
            now_s: the time, by the clock by which streams expire.
            most_streams: refuse new streams once this many are open; by default only the slots are
                a limit.
        """
        self._most_streams = most_streams
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

    def metrics(self) -> dict[Sample, float]:
        """Return the values of all metrics of the stage; any thread may call this."""
        return {
            **self._counts.values(),
            LIVE_STREAMS: self.slots.live,
            ("earshot_slots", ()): self.slots.capacity,
            ("earshot_expired_streams_total", ()): self.slots.expired_total,
            **(self._adapters.metrics(self.slots.taken) if self._adapters else {}),
        }

    def _process_round(self, chunks: Chunks, now_s: float) -> list[Outcome]:
        began_s = time.monotonic()
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
        errors |= self._reject_outputs(good)
        answers, failures = self._answers(good)
        errors |= failures
        self._close(chunks, errors)
        self._counts.batch(chunks, errors, time.monotonic() - began_s)
        return self._outcomes(chunks, good, answers, errors)

    def _find_slots(self, chunks: Chunks, now_s: float) -> tuple[Slots, Errors]:
        """Return the slot of each row; rows with an error have slot 0 and must not run."""
        slots = np.zeros(len(chunks), np.intp)
        errors: Errors = {}
        for row, (stream, starts) in enumerate(zip(chunks.streams, chunks.starts, strict=True)):
            try:
                if chunks.canaries[row]:
                    slots[row] = self.slots.spare
                elif starts:
                    slots[row] = self._open(stream, now_s, chunks.adapters[row])
                else:
                    slots[row] = self.slots.find(stream, now_s)
            except ChunkError as error:
                errors[row] = error
        return slots, errors

    def _open(self, stream: int, now_s: float, adapter: str) -> int:
        most = self._most_streams
        if most is not None and self.slots.live >= most and stream not in self.slots:
            raise Saturated(
                "this server is saturated: with another stream the chunks of the open ones would "
                "come late; start the stream again later or on another server"
            )
        slot = self.slots.open(stream, now_s)
        if self._adapters is not None:
            self._adapters.assign(slot, adapter, self.slots.taken)
        return slot

    def _reject(self, batch: int, slots: Slots, starts: npt.NDArray[np.bool_]) -> Errors:
        inputs = self._filled_inputs(batch)
        return self._audio_ends.reject(inputs, slots, starts) | self._content.reject(inputs)

    def _reject_outputs(self, good: list[int]) -> Errors:
        """Return an error for each of the rows that ran whose outputs are not finite."""
        outputs = {name: array[: len(good)] for name, array in self._engine.outputs.items()}
        return {good[position]: error for position, error in reject_outputs(outputs).items()}

    def _move_to_front(self, rows: list[int]) -> None:
        for array in self._inputs.values():
            array[: len(rows)] = array[rows]

    def _filled_inputs(self, batch: int) -> Arrays:
        return {name: array[:batch] for name, array in self._inputs.items()}

    def _advance(self, slots: Slots, starts: npt.NDArray[np.bool_]) -> RunFailed | None:
        """Run the first rows of the inputs, one per slot, and store the updated state."""
        batch = len(slots)
        try:
            self._engine.run(slots, starts, self._adapters_of(slots))
        except Exception as error:  # the engines' libraries share no base class of exceptions
            return RunFailed.of(error, batch)
        self._audio_ends.store(self._filled_inputs(batch), slots)
        return None

    def _adapters_of(self, slots: Slots) -> AdapterSlots | None:
        """Return the adapter of each stream; None if no stream has one."""
        if self._adapters is None:
            return None
        adapters = self._adapters.of(slots)
        return adapters if adapters.any() else None

    def _close(self, chunks: Chunks, errors: Errors) -> None:
        for row, stream in enumerate(chunks.streams):
            if chunks.ends[row] or (chunks.starts[row] and row in errors):
                self.slots.close(stream)

    def _answers(self, good: list[int]) -> tuple[Rows, Errors]:
        """Return all outputs of the rows that ran, and an error for each row without a text."""
        outputs = {name: array[: len(good)] for name, array in self._engine.outputs.items()}
        if self._texts is None:
            return tuple(outputs.values()), {}
        texts, errors = self._texts.of(outputs)
        failures = {good[position]: error for position, error in errors.items()}
        return (*outputs.values(), *texts), failures

    def _outcomes(
        self, chunks: Chunks, good: list[int], answers: Rows, errors: Errors
    ) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        for position, row in enumerate(good):
            outcomes[row] = tuple(array[position : position + 1] for array in answers)
        for row, error in errors.items():
            outcomes[row] = self._endings.pass_on(error, chunks, row)
        return [outcomes[row] for row in range(len(outcomes))]


def _copied(rows: tuple[npt.NDArray[Any], ...]) -> tuple[npt.NDArray[Any], ...]:
    return tuple(row.copy() for row in rows)
