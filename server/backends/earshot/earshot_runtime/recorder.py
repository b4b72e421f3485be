"""Record what a batch does, so that repeating it is cheap: as CUDA graphs on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

Recorded = Callable[[], None]


class Recorder:
    """Turns functions without arguments into recordings that are cheap to repeat.

    What is recorded works on the same memory each time it is repeated.
    """

    defers = True
    """A recording takes less time than calling its function."""

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
        """Return a function that repeats `function`, which is called once without effect.

        The function must have run before.
        """
        raise NotImplementedError

    def give_back(self) -> None:
        """Give memory back to the device that functions took before they were recorded."""

    def stream(self) -> AbstractContextManager[object]:
        """Return a context in which all operations are done in order."""
        raise NotImplementedError

    def wait(self) -> None:
        """Return when all operations that were started in the stream are done."""
        raise NotImplementedError


class Plain(Recorder):
    """Repeats functions by calling them: on a CPU nothing is deferred."""

    defers = False

    def record(self, function: Recorded) -> Recorded:
        """See `Recorder.record`; a first run at load shows errors before a client connects."""
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
        # Blocking: a thread that waits by spinning takes a core from the others.
        self._done = torch.cuda.Event(blocking=True)

    def capture(self, function: Recorded) -> Recorded:
        """See `Recorder.capture`."""
        graph = torch.cuda.CUDAGraph()
        # Not `torch.cuda.graph`, which gives back all memory that is not in use at the moment: the
        # next function that is called would have to get its gigabytes from the driver again.
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
