"""Whole utterances on torch: a few padded shapes, a decoder in recorded rounds, one wait per run.

A run is padded to one of a few numbers of rows and one of a few lengths. What is short on a GPU, so
that starting its kernels one by one would take longer than they do, is recorded as a CUDA graph:
the rounds of the decoder, once for each number of rows, and all that comes before them for runs of
little audio. Longer runs start their kernels faster than the GPU works on them. The rounds of all
runs work on the same memory, as large as the largest run needs it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .adapters import AdapterSlots
from .device import open_device
from .errors import BadStage
from .mirror import Mirror
from .program import Loop, Program
from .recorder import CudaRecorder, Plain, Recorded, Recorder
from .spec import StageSpec, TensorSpec
from .torch_engine import batch_sizes
from .torch_program import open_program
from .utterance_engine import Array

_RECORDED_SHARE = 1 / 8
"""Of the audio of the largest run: up to here a run is recorded from its beginning."""
_ROWS_WITHOUT_GPU = 8
"""Of the longest utterances, in a run on a CPU: more are no faster there, and take gigabytes."""
_PADDING = -1
"""Behind the last token of an utterance, in each output."""


def open_torch_utterances(folder: Path, spec: StageSpec) -> TorchUtterances:
    """Return the engine for the program in `folder`, on the device that the config names."""
    device = open_device(spec)
    program = open_program(folder, spec, device)
    recorder = CudaRecorder() if device.type == "cuda" else Plain()
    return TorchUtterances(program, spec, device, recorder)


class TorchUtterances:
    """Implements `UtteranceEngine`."""

    def __init__(
        self, program: Program, spec: StageSpec, device: torch.device, recorder: Recorder
    ) -> None:
        self.device_name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        self._program, self._spec, self._recorder = program, spec, recorder
        sizes = batch_sizes(spec.max_batch)
        self._lengths, self._most = spec.run_lengths, _require_runs(spec, sizes[0])
        if not recorder.defers:
            self._most = min(self._most, _ROWS_WITHOUT_GPU * self._lengths[-1])
        self._sizes = [size for size in sizes if size * self._lengths[0] <= self._most]
        names = [tensor.name for tensor in spec.outputs]
        self._count = names.index(spec.length_output) if spec.length_output else None
        self._audio = Mirror([_AUDIO], self._most, device)
        self._audio_length = Mirror([_LENGTH], self._sizes[-1], device)
        self._starts: dict[tuple[int, int], _Start] = {}
        with torch.inference_mode(), recorder.stream():
            self._loops = self._record_loops(program.loop) if program.loop else {}
            if recorder.defers:
                self._prepare()

    @property
    def device_bytes(self) -> int:
        """Return the memory in use on the GPU, by all processes; 0 on a CPU."""
        if self.device_name == "cpu":
            return 0
        free, total = torch.cuda.mem_get_info()
        return total - free

    def most_rows(self, length: int) -> int:
        """See `UtteranceEngine.most_rows`."""
        fitting = self._most // self._padded(length)
        return max(size for size in self._sizes if size <= fitting)

    def store_adapter(self, slot: int, rows: list[npt.NDArray[np.float32]]) -> None:
        """Refuse the adapter: a config for torch has no adapters of whole files."""
        raise NotImplementedError("adapters of whole files are for ONNX Runtime")

    def run(self, inputs: Sequence[Array], adapters: AdapterSlots | None = None) -> list[Array]:
        """See `UtteranceEngine.run`; more rows than fit run one part after the other."""
        assert adapters is None, "none has been stored"
        audio, lengths = inputs
        most = self.most_rows(audio.shape[1])
        runs = [
            self._run(audio[first : first + most], lengths[first : first + most])
            for first in range(0, len(audio), most)
        ]
        return [_joined(parts) for parts in zip(*runs, strict=True)]

    def _run(self, audio: Array, lengths: Array) -> list[Array]:
        rows, samples = audio.shape
        size, length = self._sizes[bisect_left(self._sizes, rows)], self._padded(samples)
        host = self._audio.host[_AUDIO.name][: size * length].reshape(size, length)
        host[:rows, :samples] = audio
        host[:rows, samples:] = 0
        # Rows behind the last keep the audio of an earlier run, of which nothing is valid.
        self._audio_length.host[_LENGTH.name][:rows] = lengths
        self._audio_length.host[_LENGTH.name][rows:size] = 0
        with torch.inference_mode(), self._recorder.stream():
            outputs = self._compute(size, length)
        return self._cut(outputs, rows)

    def _compute(self, size: int, length: int) -> list[Tensor]:
        start = self._start(size, length)
        start.run()
        if not self._loops:
            self._recorder.wait()
            return start.outputs
        loop = self._loops[size]
        for _ in range(math.ceil(loop.runs * length / self._lengths[-1])):
            loop.rounds()
        loop.end()
        self._recorder.wait()
        while bool(loop.pending):
            loop.rounds()
            loop.end()
            self._recorder.wait()
        return loop.outputs

    def _cut(self, outputs: Sequence[Tensor], rows: int) -> list[Array]:
        """Return copies of the first rows, no wider than the longest of them needs."""
        arrays = [output[:rows].numpy() for output in outputs]
        if self._count is None:
            return [array.copy() for array in arrays]
        # At least one column: Triton's own protocol has no empty tensors.
        width = max(1, int(arrays[self._count].max()))
        return [array[:, :width].copy() for array in arrays]

    def _padded(self, length: int) -> int:
        return self._lengths[bisect_left(self._lengths, length)]

    def _longest(self, size: int) -> int:
        """Return the longest length of a run with so many rows; there is one for all sizes."""
        return max(length for length in self._lengths if size * length <= self._most)

    def _start(self, size: int, length: int) -> _Start:
        if (size, length) not in self._starts:
            loop = self._loops[size] if self._loops else None
            self._starts[size, length] = _Start(partial(self._begin, size, length), loop)
        return self._starts[size, length]

    def _begin(self, size: int, length: int) -> tuple[Tensor, ...]:
        """Copy the audio of a run to the device, and run the model up to its loop."""
        [audio] = self._audio.to_device(size * length)
        [audio_length] = self._audio_length.to_device(size)
        return self._program.model(audio.view(size, length), audio_length)

    def _record_loops(self, loop: Loop) -> dict[int, _Loop]:
        longest = {size: self._longest(size) for size in self._sizes}
        rows = self._sizes[0]
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
            for size in self._sizes
        }

    def _prepare(self) -> None:
        """Record short runs; run the largest one, so that later ones find their memory."""
        shapes = [
            (size, length)
            for size in self._sizes
            for length in self._lengths
            if size * length <= self._most
        ]
        size, length = max(shapes, key=math.prod)
        self._compute(size, length)
        for shape in shapes:
            if math.prod(shape) <= _RECORDED_SHARE * self._most:
                start = self._start(*shape)
                start.run = self._recorder.record(start.run)


class _Start:
    """What a run of one shape does before the rounds: `run` fills the loop, or `outputs`."""

    def __init__(self, begin: Callable[[], tuple[Tensor, ...]], loop: _Loop | None) -> None:
        self._begin, self._loop = begin, loop
        self.outputs: list[Tensor] = []
        self.run: Recorded = self._run

    def _run(self) -> None:
        values = self._begin()
        if self._loop is not None:
            self._loop.load(values)
            return
        self.outputs = self.outputs or _on_host(values)
        for output, value in zip(self.outputs, values, strict=True):
            output.copy_(value, non_blocking=True)


class _Loop:
    """The rounds of runs with so many rows, and the outputs when they have ended.

    `rounds` and `end` go on from what `carried` holds; after `end`, `pending` tells whether an
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
        """Copy the values of a run, whose time axis may be shorter, to where the rounds work."""
        for carried, value in zip(self._carried, values, strict=True):
            carried[tuple(slice(size) for size in value.shape)].copy_(value)

    def _rounds(self) -> None:
        *state, pending = self._loop.rounds(*self._carried)
        # In place, so that the next replay goes on from here.
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


def _require_runs(spec: StageSpec, fewest_rows: int) -> int:
    """Return the most audio of a run, or raise BadStage if an utterance fits in none."""
    longest, most = max(spec.lengths, default=0), spec.max_run_length
    lengths = spec.run_lengths
    if most is None or not lengths or lengths[-1] < longest or fewest_rows * lengths[-1] > most:
        raise BadStage(
            f"{spec.model}: run_lengths must end with {longest} or more, and max_run_length must "
            f"hold {fewest_rows} utterances of the last of them: they are {list(lengths)} and "
            f"{most}; correct them in the config, or export the model again"
        )
    return most


def _joined(parts: Sequence[Array]) -> Array:
    """Return the rows of several runs as one array, as wide as the widest."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.shape[1] for part in parts)
    padded = [
        np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=_PADDING)
        for part in parts
    ]
    return np.concatenate(padded)


_AUDIO = TensorSpec("AUDIO", np.dtype(np.float32), ())
_LENGTH = TensorSpec("AUDIO_LENGTH", np.dtype(np.int32), (1,))
