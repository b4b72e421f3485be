"""Run a program of whole utterances in a few padded shapes, with a decoder in recorded rounds.

Work whose kernels take less time on a GPU than their launches is recorded as a CUDA graph: the
rounds of the decoder, once for each number of rows, and everything before them for runs with little
audio. Longer runs launch their kernels faster than the GPU executes them. The rounds of all runs
share the same memory, sized for the largest run.

Rounds are recorded when the engine opens. Short shapes are too many for that, and a service never
sees most of them: a shape is recorded when it is used for the second time.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .opening import Opening
from .program import Loop
from .recorder import Recorded, Recorder

_RECORDED_SHARE = 1 / 8
"""Up to this share of the audio of the largest run, a run is recorded from its beginning."""

Begin = Callable[[int, int], tuple[Tensor, ...]]
"""`(rows, samples) -> values`: runs a program up to its loop, on inputs padded to that shape."""


@dataclass(frozen=True)
class RunShapes:
    """Rows and lengths to which runs are padded."""

    sizes: tuple[int, ...]
    """Numbers of rows, ascending."""
    lengths: tuple[int, ...]
    """Samples of a row, ascending."""
    most: int
    """Largest number of samples in all rows of a run; each length fits with at least one size."""

    @property
    def longest(self) -> int:
        """Return the samples of the longest utterance."""
        return self.lengths[-1]

    def size(self, rows: int) -> int:
        """Return the number of rows to which `rows` are padded."""
        return self.sizes[bisect_left(self.sizes, rows)]

    def length(self, samples: int) -> int:
        """Return the length to which an utterance is padded."""
        return self.lengths[bisect_left(self.lengths, samples)]

    def most_rows(self, samples: int) -> int:
        """Return the largest number of rows in a run of utterances of this length."""
        fitting = self.most // self.length(samples)
        return max(size for size in self.sizes if size <= fitting)

    def longest_of(self, size: int) -> int:
        """Return the largest length of a run with `size` rows."""
        return max(length for length in self.lengths if size * length <= self.most)

    def all(self) -> list[tuple[int, int]]:
        """Return rows and length of every run."""
        return [
            (size, length)
            for size in self.sizes
            for length in self.lengths
            if size * length <= self.most
        ]


class UtteranceRuns:
    """The runs of a program; call all methods in the recorder's stream."""

    def __init__(
        self,
        begin: Begin,
        loop: Loop | None,
        shapes: RunShapes,
        recorder: Recorder,
        opening: Opening,
    ) -> None:
        """Record the rounds, and, if recordings save time, run the largest shapes."""
        self._begin, self._shapes, self._recorder = begin, shapes, recorder
        self._short = _RECORDED_SHARE * shapes.most if recorder.defers else 0.0
        self._loops = self._record_loops(loop) if loop else {}
        opening.done(f"rounds for {len(self._loops)} numbers of rows")
        self._starts: dict[tuple[int, int], _Start] = {}
        if recorder.defers:
            self._take_memory()
            opening.done("largest runs")

    def compute(self, size: int, length: int) -> list[Tensor]:
        """Run a shape, and return the outputs on the host, valid until the next run."""
        start = self._start(size, length)
        start.run()
        if not self._loops:
            self._recorder.wait()
            return start.outputs
        loop = self._loops[size]
        for _ in range(math.ceil(loop.runs * length / self._shapes.longest)):
            loop.rounds()
        loop.end()
        self._recorder.wait()
        while bool(loop.pending):
            loop.rounds()
            loop.end()
            self._recorder.wait()
        return loop.outputs

    def _start(self, size: int, length: int) -> _Start:
        if (size, length) not in self._starts:
            self._starts[size, length] = _Start(
                partial(self._begin, size, length),
                self._loops[size] if self._loops else None,
                self._recorder if self._is_short(size, length) else None,
            )
        return self._starts[size, length]

    def _is_short(self, size: int, length: int) -> bool:
        return size * length <= self._short

    def _record_loops(self, loop: Loop) -> dict[int, _Loop]:
        longest = {size: self._shapes.longest_of(size) for size in self._shapes.sizes}
        rows = self._shapes.sizes[0]
        examples = {length: self._begin(rows, length) for length in set(longest.values())}
        shapes = {
            size: [(size, *value.shape[1:]) for value in examples[length]]
            for size, length in longest.items()
        }
        memory = [
            value.new_zeros(max(math.prod(each[index]) for each in shapes.values()))
            for index, value in enumerate(next(iter(examples.values())))
        ]
        return {
            size: _Loop(
                loop,
                [
                    flat[: math.prod(shape)].view(shape)
                    for flat, shape in zip(memory, shapes[size], strict=True)
                ],
                self._recorder,
            )
            for size in self._shapes.sizes
        }

    def _take_memory(self) -> None:
        """Run the largest shape, and record the largest of the short ones.

        All other shapes then find memory allocated, and a lack of it shows when the engine opens.
        """
        shapes = self._shapes.all()
        self.compute(*max(shapes, key=math.prod))
        if short := [shape for shape in shapes if self._is_short(*shape)]:
            largest = max(short, key=math.prod)
            for _ in range(2):
                self.compute(*largest)


class _Start:
    """The work of a run of one shape before the rounds: it fills the loop, or `outputs`."""

    def __init__(
        self,
        begin: Callable[[], tuple[Tensor, ...]],
        loop: _Loop | None,
        recorder: Recorder | None,
    ) -> None:
        """Prepare to run `begin`; with a recorder, record it on its second run."""
        self._begin, self._loop, self._recorder = begin, loop, recorder
        self.outputs: list[Tensor] = []
        self._has_run = False
        self._repeat: Recorded = self._run

    def run(self) -> None:
        """Run, or repeat what was recorded."""
        if self._recorder is not None and self._has_run:
            self._repeat = self._recorder.capture(self._run)
            self._recorder = None
        self._repeat()
        self._has_run = True

    def _run(self) -> None:
        values = self._begin()
        if self._loop is not None:
            self._loop.load(values)
            return
        self.outputs = self.outputs or _on_host(values)
        for output, value in zip(self.outputs, values, strict=True):
            output.copy_(value, non_blocking=True)


class _Loop:
    """The rounds of runs with one number of rows, and their outputs.

    `rounds` and `end` continue from the values in `carried`; after `end`, `pending` is true if an
    utterance is unfinished.
    """

    def __init__(self, loop: Loop, carried: list[Tensor], recorder: Recorder) -> None:
        self.runs = loop.runs
        self._loop, self._carried = loop, carried
        self._goes_on = torch.zeros((), dtype=torch.bool, device=carried[0].device)
        self.outputs: list[Tensor] = []
        [self.pending] = _on_host([self._goes_on])
        self.rounds: Recorded = recorder.record(self._rounds)
        self.end: Recorded = recorder.record(self._end)

    def load(self, values: Sequence[Tensor]) -> None:
        """Copy a run's values, whose time axis may be shorter, into the memory of the rounds."""
        for carried, value in zip(self._carried, values, strict=True):
            carried[tuple(slice(size) for size in value.shape)].copy_(value)

    def _rounds(self) -> None:
        *state, pending = self._loop.rounds(*self._carried)
        # In place, so that the next replay continues from here.
        for carried, value in zip(self._carried[-len(state) :], state, strict=True):
            carried.copy_(value)
        self._goes_on.copy_(pending)

    def _end(self) -> None:
        values = self._loop.end(*self._carried)
        self.outputs = self.outputs or _on_host(values)
        for output, value in zip(self.outputs, values, strict=True):
            output.copy_(value, non_blocking=True)
        self.pending.copy_(self._goes_on, non_blocking=True)


def _on_host(values: Sequence[Tensor]) -> list[Tensor]:
    """Return memory for `values` on the host, page-locked if they are on a GPU."""
    return [
        torch.zeros(value.shape, dtype=value.dtype, pin_memory=value.is_cuda) for value in values
    ]
