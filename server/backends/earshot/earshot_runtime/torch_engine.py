"""A stage on torch: the state on the device, one recorded graph per batch size, one wait per batch.

Batches are padded to a few sizes. On a GPU all that a batch of one size does, from the copy out of
page-locked host memory to the copy back into it, is recorded once as a CUDA graph: launching it is
one call, whatever the number of kernels. On a CPU the same functions run as they are.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .adapters import NONE, AdapterSlots
from .engine import Arrays
from .errors import BadStage
from .program import Program
from .slots import Slots
from .spec import StageSpec, TensorSpec
from .torch_program import open_program

# Sizes that a batch is padded to. Below eight rows a GPU is equally fast; above, a padding of a
# third at most costs less than recording more sizes.
_STEPS = (2, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)

_ADAPTED = "adapted"

Recorded = Callable[[], None]


def open_torch(folder: Path, spec: StageSpec) -> TorchEngine:
    """Return the engine for the program in `folder`, on the device that the config names."""
    device = _device(spec)
    torch.set_num_threads(spec.intra_op_threads)
    # Convolutions would round float32 to 10 bits on a GPU unless told otherwise.
    torch.backends.cudnn.allow_tf32 = False
    adapted = open_program(folder / _ADAPTED, spec, device) if spec.adapters else None
    return TorchEngine(open_program(folder, spec, device), spec, device, adapted)


def _device(spec: StageSpec) -> torch.device:
    """Return the device of the config; `auto` is a GPU if torch sees one."""
    if spec.device not in ("auto", "cpu", "cuda"):
        raise BadStage(
            f"{spec.model}: parameter 'device' must be auto, cpu or cuda, not '{spec.device}'"
        )
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise BadStage(
            f"{spec.model}: parameter 'device' is cuda, but torch {torch.__version__} sees no GPU "
            "here: install a CUDA build of torch and a driver, or set device to auto or cpu"
        )
    wants_cuda = spec.device != "cpu" and torch.cuda.is_available()
    # With its index: programs compare their tensors' device with it, and cuda is not cuda:0.
    return torch.device("cuda:0" if wants_cuda else "cpu")


def batch_sizes(max_batch: int) -> list[int]:
    """Return the sizes to which batches of up to `max_batch` rows are padded."""
    return [*(size for size in _STEPS if size < max_batch), max(max_batch, _STEPS[0])]


class TorchEngine:
    """Implements `Engine`; padding writes to one slot more than there are streams."""

    def __init__(
        self,
        program: Program,
        spec: StageSpec,
        device: torch.device,
        adapted: Program | None = None,
    ) -> None:
        """Record `program` and, for batches in which a stream has an adapter, `adapted`."""
        assert spec.sequence is not None
        streams = spec.sequence.max_streams
        self.device_name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        self._program = program
        self._sizes = batch_sizes(spec.max_batch)
        self._scratch = streams
        self._recorder = _CudaRecorder() if device.type == "cuda" else Plain()
        rows = self._sizes[-1]
        self._in = _Mirror([*spec.inputs, _SLOTS, _ADAPTER_SLOTS], rows, device)
        self._out = _Mirror([*spec.outputs, _PENDING], rows, device)
        self._starting = _Mirror([_SLOTS], rows, device)
        self.inputs: Arrays = self._in.arrays(spec.inputs)
        self.outputs: Arrays = self._out.arrays(spec.outputs)
        # All in one stream: another would not wait for the pools to be zeroed.
        with torch.inference_mode(), self._recorder.stream():
            self._pools = [
                torch.zeros((streams + 1) * pool.rows, pool.width, dtype=pool.dtype, device=device)
                for pool in program.pools
            ]
            capacity = spec.adapters.capacity if spec.adapters else 0
            self._adapter_pools = [
                torch.zeros((capacity + 1) * pool.rows, pool.width, dtype=pool.dtype, device=device)
                for pool in (adapted.adapter_pools if adapted else ())
            ]
            self._base = self._record_all(program)
            self._adapted = self._record_all(adapted) if adapted else self._base
            for pool in self._pools:
                pool.zero_()

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
        self._in.host[_SLOTS.name][batch:size] = self._scratch
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
            for pool, part in zip(self._adapter_pools, rows, strict=True):
                pool[slot * len(part) : (slot + 1) * len(part)] = torch.from_numpy(part)
            self._recorder.wait()

    def _record_all(self, program: Program) -> dict[int, _Batch]:
        # The largest first: the sizes share memory, and it is then large enough at once.
        return {size: self._record(program, size) for size in reversed(self._sizes)}

    def _record(self, program: Program, size: int) -> _Batch:
        adapters = self._adapter_pools if program.adapter_pools else []
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
        inputs: _Mirror,
        outputs: _Mirror,
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
        """Continue from where the last run stopped, and close the chunk again."""
        loop = self._program.loop
        assert loop is not None
        stopped = self._carried
        pending = self._go_on(loop.rounds)
        # In place, so that the next replay goes on from here.
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


class _Mirror:
    """Tensors [rows, *dims] on the device and, page-locked if that is a GPU, on the host."""

    def __init__(self, tensors: list[TensorSpec], rows: int, device: torch.device) -> None:
        self._on_host = [
            torch.zeros(
                rows,
                *tensor.dims,
                dtype=getattr(torch, tensor.dtype.name),
                pin_memory=device.type == "cuda",
            )
            for tensor in tensors
        ]
        self._on_device = [tensor.to(device) for tensor in self._on_host]
        self.host = {
            spec.name: tensor.numpy() for spec, tensor in zip(tensors, self._on_host, strict=True)
        }

    def arrays(self, tensors: tuple[TensorSpec, ...]) -> dict[str, npt.NDArray[Any]]:
        """Return the host arrays of some of the tensors."""
        return {tensor.name: self.host[tensor.name] for tensor in tensors}

    def to_device(self, rows: int) -> list[Tensor]:
        """Copy the first rows of all tensors to the device, and return those rows."""
        for host, device in zip(self._on_host, self._on_device, strict=True):
            if device is not host:
                device[:rows].copy_(host[:rows], non_blocking=True)
        return [tensor[:rows] for tensor in self._on_device]

    def to_host(self, rows: int, values: list[Tensor]) -> None:
        """Copy values [rows, *dims] to the host."""
        for host, value in zip(self._on_host, values, strict=True):
            host[:rows].copy_(value, non_blocking=True)


_SLOTS = TensorSpec("SLOTS", np.dtype(np.int64), ())
_ADAPTER_SLOTS = TensorSpec("ADAPTER_SLOTS", np.dtype(np.int64), ())
# int64 and one per row, only so that it is a tensor like the others.
_PENDING = TensorSpec("PENDING", np.dtype(np.int64), ())


class Recorder:
    """Turns functions without arguments into recordings that are cheap to repeat.

    What is recorded works on the same memory each time it is repeated.
    """

    def record(self, function: Recorded) -> Recorded:
        """Run the function in the stream, and return a function that repeats it."""
        # Libraries set themselves up on their first call, which must not be recorded.
        function()
        self.wait()
        recorded = self.capture(function)
        # Nothing was computed while it was recorded, and the next function may begin with what this
        # one leaves: garbage there would be taken for rows of a table.
        recorded()
        self.wait()
        return recorded

    def capture(self, function: Recorded) -> Recorded:
        """Return a function that repeats `function`, which is called once without effect."""
        raise NotImplementedError

    def stream(self) -> AbstractContextManager[object]:
        """Return a context in which all operations are done in order."""
        raise NotImplementedError

    def wait(self) -> None:
        """Return when all operations that were started in the stream are done."""
        raise NotImplementedError


class Plain(Recorder):
    """Repeats functions by calling them: on a CPU nothing is deferred."""

    def record(self, function: Recorded) -> Recorded:
        """See `Recorder.record`; a first run at load shows errors before a client connects."""
        function()
        return function

    def stream(self) -> AbstractContextManager[object]:
        """See `Recorder.stream`."""
        return nullcontext()

    def wait(self) -> None:
        """See `Recorder.wait`."""


class _CudaRecorder(Recorder):
    """Records CUDA graphs, which share one pool of memory because they never run side by side."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._memory = torch.cuda.graph_pool_handle()
        # Blocking: a thread that waits by spinning takes a core from the others.
        self._done = torch.cuda.Event(blocking=True)

    def capture(self, function: Recorded) -> Recorded:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, stream=self._stream):
            function()
        return graph.replay

    def stream(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream)

    def wait(self) -> None:
        self._done.record(self._stream)
        self._done.synchronize()


def _nothing() -> None:
    pass
