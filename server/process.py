"""Run tritonserver as a child that never outlives its launcher."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .workspace import clear_shared_memory, hide_shared_memory

_TIED_EXEC = Path(__file__).with_name("tied_exec.py")

# Enough for the chunks in flight and for the backends' processes. This does not wait for open
# streams: that is a drain, which `terminate` begins.
_STOP_TIMEOUT_S = 5.0


class TritonProcess:
    """tritonserver in a session and process group of its own, with the stubs it starts.

    As a context manager, it is stopped at the end of the block.

    The kernel ties the child to the thread that creates it: create this object on a thread that
    lives as long as the server should.
    """

    def __init__(
        self, command: Sequence[str], env: dict[str, str], log_path: Path, shm_prefix: str
    ) -> None:
        self.log_path = log_path
        self._shm_prefix = shm_prefix
        self._asked_to_end = False
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("wb") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_TIED_EXEC), str(os.getpid()), *command],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._pidfd = os.pidfd_open(self._popen.pid)

    @property
    def pid(self) -> int:
        """Return the process id of tritonserver, which is that of its process group."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """Return the exit code: None while the process runs, negative if a signal ended it."""
        return self._popen.poll()

    @property
    def died(self) -> bool:
        """Return True if the process has ended without being asked to."""
        return self.exit_code is not None and not self._asked_to_end

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end; return the exit code, or None after `timeout_s`."""
        if self.exit_code is None:
            # Popen.wait with a timeout would poll twenty times a second.
            ended = select.poll()
            ended.register(self._pidfd, select.POLLIN)
            ended.poll(None if timeout_s is None else 1000 * max(0.0, timeout_s))
        return self.exit_code

    def hide_shared_memory(self) -> None:
        """Deny other users of the machine the shared memory of the models loaded so far."""
        hide_shared_memory(self._shm_prefix)

    def __enter__(self) -> TritonProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def terminate(self) -> None:
        """Ask tritonserver to end.

        It then reports that it is not ready, refuses new streams, and serves the open ones until
        the last has ended or its exit timeout has passed.
        """
        self._asked_to_end = True
        self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End tritonserver and its stages at once."""
        self._asked_to_end = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Terminate tritonserver, kill it if it does not end, and remove its shared memory.

        If it was asked to end before, it is killed at once.
        """
        try:
            if self.exit_code is None and not self._asked_to_end:
                self.terminate()
                self.wait(_STOP_TIMEOUT_S)
        finally:  # even if a second Ctrl-C interrupts the wait
            self._clear()

    def _clear(self) -> None:
        self.kill()
        self._popen.wait()
        os.close(self._pidfd)
        clear_shared_memory(self._shm_prefix)
