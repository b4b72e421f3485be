"""Run whole utterances on torch, padded to one of a few shapes, with one wait per run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .adapters import NONE, AdapterSlots
from .device import open_device
from .errors import BadStage
from .mirror import Mirror
from .opening import Opening
from .program import Program
from .recorder import CudaRecorder, Plain, Recorder
from .spec import StageSpec, TensorSpec
from .torch_adapter_pools import TorchAdapterPools
from .torch_engine import batch_sizes
from .torch_program import open_program
from .utterance_engine import Array
from .utterance_runs import RunShapes, UtteranceRuns

_ADAPTED = "adapted"
_ROWS_WITHOUT_GPU = 8
"""Rows of the longest utterances in a run on a CPU: more are no faster there, and take
gigabytes."""
_PADDING = -1
"""Value after the last token of an utterance, in each output."""


def open_torch_utterances(folder: Path, spec: StageSpec) -> TorchUtterances:
    """Return the engine for the program in `folder`, on the device that the config names."""
    opening = Opening(spec.model)
    device = open_device(spec)
    program = open_program(folder, spec, device)
    adapted = open_program(folder / _ADAPTED, spec, device) if spec.adapters else None
    opening.done("program")
    recorder = CudaRecorder() if device.type == "cuda" else Plain()
    return TorchUtterances(program, spec, device, recorder, adapted)


class TorchUtterances:
    """Implements `UtteranceEngine`, with a second program for runs with adapters."""

    def __init__(
        self,
        program: Program,
        spec: StageSpec,
        device: torch.device,
        recorder: Recorder,
        adapted: Program | None = None,
    ) -> None:
        """Record `program` and, for runs in which an utterance has an adapter, `adapted`."""
        self.device_name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        self._spec, self._recorder = spec, recorder
        self._shapes = _run_shapes(spec, recorder)
        names = [tensor.name for tensor in spec.outputs]
        self._count = names.index(spec.length_output) if spec.length_output else None
        self._audio = Mirror([_AUDIO], self._shapes.most, device)
        self._rows = Mirror([_LENGTH, _ADAPTER_SLOTS], self._shapes.sizes[-1], device)
        # All in one CUDA stream: another one would not wait until the pools are zeroed.
        with torch.inference_mode(), recorder.stream():
            self._adapters = TorchAdapterPools(adapted or program, spec, device)
            self._base = self._record(program)
            self._adapted = self._record(adapted) if adapted else self._base

    @property
    def device_bytes(self) -> int:
        """Return the memory in use on the GPU, by all processes; 0 on a CPU."""
        if self.device_name == "cpu":
            return 0
        free, total = torch.cuda.mem_get_info()
        return total - free

    def most_rows(self, length: int) -> int:
        """See `UtteranceEngine.most_rows`."""
        return self._shapes.most_rows(length)

    def store_adapter(self, slot: int, rows: list[npt.NDArray[np.float32]]) -> None:
        """See `AdapterPools.store_adapter`."""
        with torch.inference_mode(), self._recorder.stream():
            self._adapters.store(slot, rows)
            self._recorder.wait()

    def run(self, inputs: Sequence[Array], adapters: AdapterSlots | None = None) -> list[Array]:
        """See `UtteranceEngine.run`; rows that do not fit into one run are split into several."""
        audio, lengths = inputs
        most = self.most_rows(audio.shape[1])
        parts = [slice(first, first + most) for first in range(0, len(audio), most)]
        runs = [
            self._run(audio[part], lengths[part], None if adapters is None else adapters[part])
            for part in parts
        ]
        return [_joined(outputs) for outputs in zip(*runs, strict=True)]

    def _run(self, audio: Array, lengths: Array, adapters: AdapterSlots | None) -> list[Array]:
        rows, samples = audio.shape
        size, length = self._shapes.size(rows), self._shapes.length(samples)
        host = self._audio.host[_AUDIO.name][: size * length].reshape(size, length)
        host[:rows, :samples] = audio
        host[:rows, samples:] = 0
        # Rows after the last one keep the audio of an earlier run, with a length of zero.
        self._rows.host[_LENGTH.name][:rows] = lengths
        self._rows.host[_LENGTH.name][rows:size] = 0
        self._rows.host[_ADAPTER_SLOTS.name][:size] = NONE
        if adapters is not None:
            self._rows.host[_ADAPTER_SLOTS.name][:rows] = adapters
        with torch.inference_mode(), self._recorder.stream():
            runs = self._base if adapters is None else self._adapted
            outputs = runs.compute(size, length)
        return self._cut(outputs, rows)

    def _cut(self, outputs: Sequence[Tensor], rows: int) -> list[Array]:
        """Return copies of the first rows, no wider than the longest of them needs."""
        arrays = [output[:rows].numpy() for output in outputs]
        if self._count is None:
            return [array.copy() for array in arrays]
        # At least one column: Triton's own protocol has no empty tensors.
        width = max(1, int(arrays[self._count].max()))
        return [array[:, :width].copy() for array in arrays]

    def _record(self, program: Program) -> UtteranceRuns:
        begin = partial(self._begin, program)
        opening = Opening(self._spec.model)
        return UtteranceRuns(begin, program.loop, self._shapes, self._recorder, opening)

    def _begin(self, program: Program, size: int, length: int) -> tuple[Tensor, ...]:
        """Copy the inputs of a run to the device, and run the program up to its loop."""
        [audio] = self._audio.to_device(size * length)
        audio_length, adapter_slots = self._rows.to_device(size)
        arguments = [audio.view(size, length), audio_length]
        if program.adapter_pools:
            arguments += [*self._adapters.tensors, adapter_slots]
        return program.model(*arguments)


def _run_shapes(spec: StageSpec, recorder: Recorder) -> RunShapes:
    """Return the shapes of runs, or raise BadStage if an utterance fits in none."""
    sizes, lengths = batch_sizes(spec.max_batch), spec.run_lengths
    most = _require_runs(spec, sizes[0])
    if not recorder.defers:
        most = min(most, _ROWS_WITHOUT_GPU * lengths[-1])
    return RunShapes(tuple(size for size in sizes if size * lengths[0] <= most), lengths, most)


def _require_runs(spec: StageSpec, fewest_rows: int) -> int:
    """Return the largest audio length of a run, or raise BadStage if an utterance fits in none."""
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
_ADAPTER_SLOTS = TensorSpec("ADAPTER_SLOTS", np.dtype(np.int64), ())
