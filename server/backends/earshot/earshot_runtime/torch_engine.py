"""Run a stage on torch: state on the device, one recorded graph and one wait per batch.

Batches are padded to a few sizes. On a GPU, everything for a batch of one size, from the copy out
of page-locked host memory to the copy back into it, is recorded once as a CUDA graph, which one
call launches, whatever the number of kernels. On a CPU the same functions run directly.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .adapters import NONE, AdapterSlots
from .device import open_device
from .engine import Arrays
from .mirror import Mirror
from .opening import Opening
from .program import Program
from .recorder import CudaRecorder, Plain, Recorded, Recorder
from .slots import Slots
from .spec import StageSpec, TensorSpec
from .torch_adapter_pools import TorchAdapterPools
from .torch_program import open_program

# Sizes to which a batch is padded. Below eight rows a GPU is equally fast for all; above, padding
# by at most a third costs less than recording more sizes.
_STEPS = (2, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)

_ADAPTED = "adapted"


def open_torch(folder: Path, spec: StageSpec) -> TorchEngine:
    """Return the engine for the program in `folder`, on the device that the config names."""
    opening = Opening(spec.model)
    device = open_device(spec)
    adapted = open_program(folder / _ADAPTED, spec, device) if spec.adapters else None
    program = open_program(folder, spec, device)
    opening.done("program")
    return TorchEngine(program, spec, device, adapted)


def batch_sizes(max_batch: int) -> list[int]:
    """Return the sizes to which batches of up to `max_batch` rows are padded."""
    return [*(size for size in _STEPS if size < max_batch), max(max_batch, _STEPS[0])]


class TorchEngine:
    """Implements `Engine`; padding writes to the spare slot."""

    def __init__(
        self,
        program: Program,
        spec: StageSpec,
        device: torch.device,
        adapted: Program | None = None,
    ) -> None:
        """Record `program` and, for batches in which a stream has an adapter, `adapted`."""
        assert spec.sequence is not None
        opening = Opening(spec.model)
        streams = spec.sequence.max_streams
        self.device_name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        self._program = program
        self._sizes = batch_sizes(spec.max_batch)
        self._spare = streams
        self._recorder = CudaRecorder() if device.type == "cuda" else Plain()
        rows = self._sizes[-1]
        self._in = Mirror([*spec.inputs, _SLOTS, _ADAPTER_SLOTS], rows, device)
        self._out = Mirror([*spec.outputs, _PENDING], rows, device)
        self._starting = Mirror([_SLOTS], rows, device)
        self.inputs: Arrays = self._in.arrays(spec.inputs)
        self.outputs: Arrays = self._out.arrays(spec.outputs)
        # All in one CUDA stream: another one would not wait until the pools are zeroed.
        with torch.inference_mode(), self._recorder.stream():
            self._pools = [
                torch.zeros((streams + 1) * pool.rows, pool.width, dtype=pool.dtype, device=device)
                for pool in program.pools
            ]
            self._adapters = TorchAdapterPools(adapted or program, spec, device)
            self._base = self._record_all(program)
            self._adapted = self._record_all(adapted) if adapted else self._base
            self._recorder.give_back()
            for pool in self._pools:
                pool.zero_()
        opening.done(f"state, and batches of {len(self._sizes)} sizes")

    @property
    def device_bytes(self) -> int:
        """Return the memory in use on the GPU, by all processes; 0 on a CPU."""
        if self.device_name == "cpu":
            return 0
        free, total = torch.cuda.mem_get_info()
        return total - free

    def run(
        self, slots: Slots, starts: npt.NDArray[np.bool_], adapters: AdapterSlots | None = None
    ) -> None:
        """See `Engine.run`."""
        batch = len(slots)
        size = self._sizes[bisect_left(self._sizes, batch)]
        self._in.host[_SLOTS.name][:batch] = slots
        self._in.host[_SLOTS.name][batch:size] = self._spare
        self._in.host[_ADAPTER_SLOTS.name][:size] = NONE
        if adapters is not None:
            self._in.host[_ADAPTER_SLOTS.name][:batch] = adapters
        for array in self.inputs.values():
            array[batch:size] = 0
        with torch.inference_mode(), self._recorder.stream():
            self._clear(slots[starts])
            recorded = (self._base if adapters is None else self._adapted)[size]
            recorded.first()
            self._recorder.wait()
            while self._out.host[_PENDING.name][0]:
                recorded.more()
                self._recorder.wait()

    def _clear(self, slots: Slots) -> None:
        """Set the state of streams that start to zero."""
        count = len(slots)
        if count == 0:
            return
        self._starting.host[_SLOTS.name][:count] = slots
        [index] = self._starting.to_device(count)
        for pool, spec in zip(self._pools, self._program.pools, strict=True):
            pool.view(-1, spec.rows * spec.width).index_fill_(0, index, 0)

    def store_adapter(self, slot: int, rows: list[npt.NDArray[np.float32]]) -> None:
        """See `AdapterPools.store_adapter`."""
        with torch.inference_mode(), self._recorder.stream():
            self._adapters.store(slot, rows)
            self._recorder.wait()

    def _record_all(self, program: Program) -> dict[int, _Batch]:
        # The largest first: the sizes share memory, which is then large enough from the start.
        return {size: self._record(program, size) for size in reversed(self._sizes)}

    def _record(self, program: Program, size: int) -> _Batch:
        adapters = self._adapters.tensors if program.adapter_pools else []
        return _Batch(
            program, self._pools, adapters, self._in, self._out, size, recorder=self._recorder
        )


class _Batch:
    """The recorded steps of a batch of one size: `first`, then `more` while streams are pending."""

    def __init__(
        self,
        program: Program,
        pools: list[Tensor],
        adapter_pools: list[Tensor],
        inputs: Mirror,
        outputs: Mirror,
        size: int,
        *,
        recorder: Recorder,
    ) -> None:
        self._program = program
        self._pools = pools
        self._adapter_pools = adapter_pools
        self._in, self._out = inputs, outputs
        self._size = size
        self._carried: tuple[Tensor, ...] = ()
        self._slots = torch.empty(0)
        self.first: Recorded = recorder.record(self._first)
        self.more: Recorded = recorder.record(self._more) if program.loop else _nothing

    def _first(self) -> None:
        *inputs, self._slots, adapter_slots = self._in.to_device(self._size)
        arguments = [*inputs, *self._pools, self._slots]
        if self._adapter_pools:
            arguments += [*self._adapter_pools, adapter_slots]
        results = self._program.model(*arguments)
        loop = self._program.loop
        pools = len(self._pools) - (1 if loop else 0)
        values, updates = results[: len(results) - 2 * pools], results[len(results) - 2 * pools :]
        for index in range(pools):
            self._write(index, *updates[2 * index : 2 * index + 2])
        if loop is None:
            self._out.to_host(self._size, [*values, torch.zeros_like(self._slots)])
            return
        self._carried = values
        pending = self._slots
        for _ in range(loop.runs):
            pending = self._go_on(loop.rounds)
        self._end(loop.end, pending)

    def _more(self) -> None:
        """Continue where the last run stopped, and close the chunk again."""
        loop = self._program.loop
        assert loop is not None
        stopped = self._carried
        pending = self._go_on(loop.rounds)
        # In place, so that the next replay continues from here.
        for old, new in zip(stopped, self._carried, strict=True):
            if old is not new:
                old.copy_(new)
        self._carried = stopped
        self._end(loop.end, pending)

    def _go_on(self, rounds: Callable[..., tuple[Tensor, ...]]) -> Tensor:
        *loop_state, pending = rounds(*self._carried)
        self._carried = (*self._carried[: -len(loop_state)], *loop_state)
        return pending

    def _end(self, end: Callable[..., tuple[Tensor, ...]], pending: Tensor) -> None:
        *outputs, values, rows = end(*self._carried)
        self._write(len(self._pools) - 1, values, rows)
        self._out.to_host(self._size, [*outputs, pending.expand(self._size).to(torch.int64)])

    def _write(self, index: int, values: Tensor, rows: Tensor) -> None:
        """Write the changed rows of each stream into the pool."""
        pool = self._pools[index]
        at = self._slots[:, None] * self._program.pools[index].rows + rows
        pool.index_copy_(0, at.flatten(), values.flatten(0, 1))


_SLOTS = TensorSpec("SLOTS", np.dtype(np.int64), ())
_ADAPTER_SLOTS = TensorSpec("ADAPTER_SLOTS", np.dtype(np.int64), ())
# int64 and one per row, only so that it can be handled like the other tensors.
_PENDING = TensorSpec("PENDING", np.dtype(np.int64), ())


def _nothing() -> None:
    pass
