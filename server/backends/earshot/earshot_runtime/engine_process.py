"""Run the process of an engine that all instances of a model share.

Each instance owns a part of the slots, and has at most one batch in flight. Batches that arrive
during a run are run together next, so that runs grow with the load. The process ends with the last
of its instances; `shared_engine.py` is the instances' side.
"""

from __future__ import annotations

import gc
import os
import pickle
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle
from pathlib import Path

import numpy as np

from .adapters import NONE, AdapterSlots
from .counts import BatchTimes
from .engine import Engine
from .engine_memory import EngineMemory
from .engines import open_engine
from .errors import StageError
from .heartbeat import Heartbeat
from .shared_engine import RUN, short_path
from .slots import Slots
from .spec import StageSpec


def main() -> None:
    """Serve the engine that the instance at the other end of stdin describes."""
    folder, spec, address = pickle.load(sys.stdin.buffer)
    EngineProcess(folder, spec, address).serve()


@dataclass
class Instance:
    """An instance that has joined."""

    connection: Connection
    memory: EngineMemory
    number: int


@dataclass(frozen=True)
class Batch:
    """The rows that an instance wants to run."""

    instance: Instance
    rows: int
    adapted: bool


class EngineProcess:
    """Accepts the instances, and runs their batches until the last of them is gone."""

    def __init__(self, folder: Path, spec: StageSpec, address: Path) -> None:
        """Listen at `address` at once, then open the engine, which takes longer."""
        self._spec = spec
        self._address = address
        self._joined = 0
        self._instances: dict[Connection, Instance] = {}
        self._waiting: deque[Batch] = deque()
        self._problem: str | None = None
        self._times = BatchTimes()
        self._listener = _listen(address, spec.instances)
        began_s = time.monotonic()
        self._engine = self._open(folder)
        self._heartbeat = Heartbeat(
            address.parent,
            f"{spec.model}_engine",
            f"{spec.model}_engine",
            self._times.values,
            slowest_s=(time.monotonic() - began_s) / 5,
        )

    def _open(self, folder: Path) -> Engine | None:
        try:
            return open_engine(folder, self._spec.of_engine)
        except StageError as error:
            self._problem = str(error)
        except Exception as error:  # the engines' libraries share no base class of exceptions
            traceback.print_exc()
            self._problem = f"{type(error).__name__}: {error}"
        return None

    def serve(self) -> None:
        """Return when the last instance is gone, or the first one before all have joined."""
        self._heartbeat.start()
        gc.freeze()
        while self._instances or not self._complete:
            if not self._attend():
                break
            if self._waiting:
                self._run(self._next_batches())
        self._heartbeat.stop()

    @property
    def _complete(self) -> bool:
        return self._joined == self._spec.instances

    def _attend(self) -> bool:
        """Receive requests and instances; wait for one if there is nothing to run."""
        starter = sys.stdin.fileno()
        joining = [] if self._complete else [self._listener, starter]
        found = wait([*self._instances, *joining], 0 if self._waiting else None)
        for ready in found:
            if isinstance(ready, Connection):
                self._receive(self._instances[ready])
            elif ready is self._listener:
                self._accept()
        return self._complete or starter not in found  # the starter has ended

    def _accept(self) -> None:
        connection = Connection(self._listener.accept()[0].detach())
        number = self._joined
        self._joined += 1
        if self._complete:
            # A model that is loaded again has another process.
            self._address.unlink()
            self._listener.close()
        with suppress(EOFError, OSError):  # the instance has ended in the meantime
            memory = self._memory_of(connection)
            connection.send(self._problem)
            if self._problem is None:
                self._instances[connection] = Instance(connection, memory, number)

    def _memory_of(self, connection: Connection) -> EngineMemory:
        file = recv_handle(connection)
        try:
            return EngineMemory(self._spec, file)
        finally:
            os.close(file)

    def _receive(self, instance: Instance) -> None:
        try:
            kind, *details = instance.connection.recv()
            if kind == RUN:
                self._waiting.append(Batch(instance, *details))
            else:
                self._store(instance, *details)
        except (EOFError, OSError):
            del self._instances[instance.connection]
            instance.connection.close()

    def _store(self, instance: Instance, slot: int) -> None:
        """Receive the memory of an adapter and write it into a slot of the instance."""
        assert self._spec.adapters is not None
        with open(recv_handle(instance.connection), "rb") as file:
            file.seek(0)
            parts = [
                np.fromfile(file, np.float32, rows * width).reshape(rows, width)
                for rows, width in self._spec.adapters.shapes
            ]
        [at] = self._adapters(instance, np.array([slot]))
        problem = self._attempt(lambda engine: engine.store_adapter(int(at), parts))
        _answer(instance, problem)

    def _next_batches(self) -> list[Batch]:
        """Return the batches that have waited longest, as many as fit into one run."""
        batches, rows = [self._waiting.popleft()], self._spec.max_batch
        rows -= batches[0].rows
        while self._waiting and self._waiting[0].rows <= rows:
            batches.append(self._waiting.popleft())
            rows -= batches[-1].rows
        return batches

    def _run(self, batches: list[Batch]) -> None:
        problem = self._attempt(lambda engine: self._run_on(engine, batches))
        if problem is not None and len(batches) > 1:
            # A failed run leaves the streams as they were, so each batch can be tried again alone.
            for batch in batches:
                self._run([batch])
            return
        for batch in batches:
            _answer(batch.instance, problem)

    def _run_on(self, engine: Engine, batches: list[Batch]) -> None:
        """Run the rows of all batches as one, and give each instance its own outputs."""
        ends = np.cumsum([batch.rows for batch in batches]).tolist()
        parts = [slice(end - batch.rows, end) for batch, end in zip(batches, ends, strict=True)]
        slots = np.zeros(ends[-1], np.intp)
        starts = np.zeros(ends[-1], np.bool_)
        adapters = np.full(ends[-1], NONE, np.int64)
        for batch, part in zip(batches, parts, strict=True):
            instance, memory = batch.instance, batch.instance.memory
            slots[part] = self._slots(instance, memory.slots[: batch.rows])
            starts[part] = memory.starts[: batch.rows]
            adapters[part] = self._adapters(instance, memory.adapters[: batch.rows])
            for name, array in engine.inputs.items():
                array[part] = memory.inputs[name][: batch.rows]
        adapted = any(batch.adapted for batch in batches)
        began_s = time.monotonic()
        engine.run(slots, starts, adapters if adapted else None)
        self._times.add(time.monotonic() - began_s)
        for batch, part in zip(batches, parts, strict=True):
            for name, array in engine.outputs.items():
                batch.instance.memory.outputs[name][: batch.rows] = array[part]

    def _attempt(self, work: Callable[[Engine], None]) -> str | None:
        """Call `work` with the engine; return the kind of the error, if any."""
        assert self._engine is not None
        try:
            with self._heartbeat.batch():
                work(self._engine)
        except Exception as error:  # the engines' libraries share no base class of exceptions
            traceback.print_exc()
            return type(error).__name__
        return None

    def _slots(self, instance: Instance, slots: Slots) -> Slots:
        """Convert slots of an instance to those of the engine, which has one spare slot for all."""
        assert self._spec.sequence is not None
        streams = self._spec.sequence.max_streams
        spare = self._spec.instances * streams
        return np.where(slots == streams, spare, slots + instance.number * streams)

    def _adapters(self, instance: Instance, slots: AdapterSlots) -> AdapterSlots:
        capacity = self._spec.adapters.capacity if self._spec.adapters else 0
        return np.where(slots == NONE, NONE, slots + instance.number * capacity)


def _listen(address: Path, backlog: int) -> socket.socket:
    address.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    with short_path(address) as path:
        listener.bind(path)
    listener.listen(backlog)
    return listener


def _answer(instance: Instance, problem: str | None) -> None:
    with suppress(OSError):  # the instance has ended in the meantime
        instance.connection.send(problem)


if __name__ == "__main__":
    main()
