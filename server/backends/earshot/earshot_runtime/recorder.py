"""Record the operations of a batch for cheap repetition: as CUDA graphs on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

Recorded = Callable[[], None]


class Recorder:
    """Turns functions without arguments into recordings that are cheap to repeat.

    Each repetition of a recording works on the same memory.
    """

    defers = True
    """True if a recording takes less time than calling its function."""

    def record(self, function: Recorded) -> Recorded:
        """Run the function in the stream, and return a function that repeats it."""
        # Libraries initialize themselves on their first call, which must not be recorded.
        function()
        self.wait()
        recorded = self.capture(function)
        # Recording computes nothing, and the next function may begin with the results of this one:
        # garbage there would be used as row numbers of a table.
        recorded()
        self.wait()
        return recorded

    def capture(self, function: Recorded) -> Recorded:
        """Return a function that repeats `function`, which is called once without effect.

        The function must have run before.
        """
        raise NotImplementedError

    def give_back(self) -> None:
        """Return memory to the device that functions allocated before they were recorded."""

    def stream(self) -> AbstractContextManager[object]:
        """Return a context in which all operations are executed in order."""
        raise NotImplementedError

    def wait(self) -> None:
        """Return when all operations that were started in the stream are done."""
        raise NotImplementedError


class Plain(Recorder):
    """Repeats functions by calling them: on a CPU nothing is deferred."""

    defers = False

    def record(self, function: Recorded) -> Recorded:
        """See `Recorder.record`; the first run shows errors before a client connects."""
        function()
        return function

    def stream(self) -> AbstractContextManager[object]:
        """See `Recorder.stream`."""
        return nullcontext()

    def wait(self) -> None:
        """See `Recorder.wait`."""


class CudaRecorder(Recorder):
    """Records CUDA graphs, which share one pool of memory because they never run side by side."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._memory = torch.cuda.graph_pool_handle()
        # Blocking, because a thread that spins while it waits takes a core from the others.
        self._done = torch.cuda.Event(blocking=True)

    def capture(self, function: Recorded) -> Recorded:
        """See `Recorder.capture`."""
        graph = torch.cuda.CUDAGraph()
        # Not `torch.cuda.graph`, which returns all unused memory to the driver: the next function
        # would have to allocate its gigabytes again.
        graph.capture_begin(self._memory, capture_error_mode="thread_local")
        try:
            function()
        finally:
            graph.capture_end()
        return graph.replay

    def give_back(self) -> None:
        """See `Recorder.give_back`."""
        torch.cuda.empty_cache()

    def stream(self) -> AbstractContextManager[object]:
        """See `Recorder.stream`."""
        return torch.cuda.stream(self._stream)

    def wait(self) -> None:
        """See `Recorder.wait`."""
        self._done.record(self._stream)
        self._done.synchronize()
