"""Run the batches of an instance in the process of an engine that all instances share.

Triton runs each instance of a model in a process of its own, one batch at a time. Outside of its
engine, an instance spends more time on a batch (copy requests, check them, convert tokens to text,
answer) than a GPU needs for it, so several instances are needed to keep a GPU busy. With an engine
each, they would hold the weights several times, and take turns on the GPU with small batches. So
the first instance starts a process that opens the engine, and all of them send it their rows: see
`engine_process.py`.

They find the process by a socket in a folder of the server; audio and tokens go through unnamed
shared memory (`engine_memory.py`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .adapters import NONE, AdapterSlots
from .engine import Arrays
from .engine_memory import EngineMemory
from .errors import BadStage, EngineFailed
from .slots import Slots
from .spec import StageSpec

RUN, STORE = "run", "store"
"""Requests: (RUN, rows, whether a row has an adapter), or (STORE, slot), then the rows' memory."""
_LISTENS_S = 60.0
"""Time for a Python process to start, on a busy machine."""
_POLL_S = 0.02


class _EngineGone(Exception):
    """The process ended before it had opened the engine."""


def join_engine(folder: Path, spec: StageSpec, sockets: Path) -> SharedEngine:
    """Return the engine that the instances of `spec` share, started by the first of them.

    Args:
        folder: the folder of the engine's files.
        sockets: the folder in which the instances look for the process.

    Raises:
        BadStage: the engine cannot be opened.
    """
    # Unique for each model and shape of the memory, and short, as socket addresses must be.
    key = hashlib.sha256(f"{folder} {spec}".encode()).hexdigest()[:16]
    address = sockets / f"{key}.engine"
    try:
        return _join(folder, spec, address)
    except _EngineGone:  # it may belong to a model that was unloaded while it was opening
        pass
    try:
        return _join(folder, spec, address)
    except _EngineGone:
        raise BadStage(
            f"{spec.model}: the process of the engine has ended; the server's log says why"
        ) from None


def _join(folder: Path, spec: StageSpec, address: Path) -> SharedEngine:
    process = None
    with address.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one instance at a time looks for the process
        connection = _connect(address)
        if connection is None:
            process = _start(folder, spec, address)
            connection = _wait_for(address, process, spec)
    return SharedEngine(spec, connection, process)


class SharedEngine:
    """Implements `Engine` for one instance."""

    def __init__(
        self, spec: StageSpec, connection: Connection, process: subprocess.Popen[bytes] | None
    ) -> None:
        """Join the engine's process and wait until it has opened the engine.

        Args:
            process: the process, if this instance started it; it ends with its last instance.
        """
        self._connection = connection
        self._process = process
        file = os.memfd_create("earshot-rows")
        self._memory = EngineMemory(spec, file)
        self.inputs: Arrays = self._memory.inputs
        self.outputs: Arrays = self._memory.outputs
        try:
            send_handle(connection, file, None)
            problem = connection.recv()
        except (EOFError, OSError):
            raise _EngineGone from None
        finally:
            os.close(file)
        if problem is not None:
            raise BadStage(f"{spec.model}: the engine cannot be opened: {problem}")

    def run(
        self, slots: Slots, starts: npt.NDArray[np.bool_], adapters: AdapterSlots | None = None
    ) -> None:
        """See `Engine.run`."""
        rows = len(slots)
        self._memory.slots[:rows] = slots
        self._memory.starts[:rows] = starts
        self._memory.adapters[:rows] = NONE if adapters is None else adapters
        self._ask((RUN, rows, adapters is not None))

    def store_adapter(self, slot: int, rows: list[npt.NDArray[np.float32]]) -> None:
        """See `AdapterPools.store_adapter`."""
        file = os.memfd_create("earshot-adapter")
        try:
            with open(file, "wb", closefd=False) as target:
                for part in rows:
                    target.write(np.ascontiguousarray(part, np.float32).data)
            self._ask((STORE, slot), file)
        finally:
            os.close(file)

    def _ask(self, request: tuple[object, ...], file: int | None = None) -> None:
        try:
            self._connection.send(request)
            if file is not None:
                send_handle(self._connection, file, None)
            problem = self._connection.recv()
        except (EOFError, OSError) as error:
            raise EngineFailed("its process has ended") from error
        if problem is not None:
            raise EngineFailed(problem)


def _connect(address: Path) -> Connection | None:
    client = socket.socket(socket.AF_UNIX)
    with short_path(address) as path:
        try:
            client.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            client.close()
            return None
    return Connection(client.detach())


def _start(folder: Path, spec: StageSpec, address: Path) -> subprocess.Popen[bytes]:
    """Start the process with this Python and the modules of this package."""
    package = __name__.rpartition(".")[0]
    root = Path(__file__).parents[len(package.split("."))]
    process = subprocess.Popen(
        # The name of the model is only for people who list the processes.
        [sys.executable, "-P", "-m", f"{package}.engine_process", spec.model],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
    )
    # stdin stays open: when it closes, the process knows that this instance has ended.
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # `_wait_for` reports it
        process.stdin.write(pickle.dumps((folder, spec, address)))
        process.stdin.flush()
    return process


def _wait_for(address: Path, process: subprocess.Popen[bytes], spec: StageSpec) -> Connection:
    deadline_s = time.monotonic() + _LISTENS_S
    while time.monotonic() < deadline_s and process.poll() is None:
        if connection := _connect(address):
            return connection
        time.sleep(_POLL_S)
    process.kill()
    process.wait()
    raise BadStage(f"{spec.model}: the process of the engine did not start; the log says why")


@contextmanager
def short_path(path: Path) -> Generator[str]:
    """Provide a short path of a socket, because that of a deep folder would not fit its address."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
