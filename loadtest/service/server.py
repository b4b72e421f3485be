"""Start a server for one measurement."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from loadtest.options import LoadOptions
from loadtest.service.metrics import cpu_s_by_model, read_metrics

READY = re.compile(r"ready: gRPC (?P<url>\S+), metrics (?P<metrics_url>\S+),")
"""The line of `python -m server` with its addresses."""


class ServerEnded(Exception):
    """The server did not become ready."""


@dataclass(frozen=True)
class ServerProcess:
    """A running `python -m server`."""

    pid: int
    url: str
    metrics_url: str

    def processes(self) -> list[psutil.Process]:
        """Return Triton's process and those of its backends."""
        return psutil.Process(self.pid).children(recursive=True)

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds used so far by model; `triton` is the server process itself."""
        return cpu_s_by_model(self.processes())

    def counter(self, metric: str) -> dict[str, float]:
        """Return the value of a Triton counter by model."""
        return read_metrics(self.metrics_url).by_model(metric)


@contextmanager
def serving(
    repository: Path, *flags: str, chunk_share: float | None = None
) -> Generator[ServerProcess]:
    """Serve `repository` on free ports, with further `flags`, for the length of the block.

    Args:
        chunk_share: `--chunk-share`; without it no stream is refused because of the load on the
            cores, as most measurements need.

    Raises:
        ServerEnded: The server ended before it was ready; its own message is on stderr.
    """
    arguments = ["--repository", str(repository), "--grpc-port", "0", "--metrics-port", "0"]
    arguments += ["--chunk-share", str(chunk_share or 0)]
    command = [sys.executable, "-m", "server", *arguments, *flags]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, preexec_fn=_obey_interrupts
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        addresses = READY.match(line)
        if addresses is None:
            process.wait()
            raise ServerEnded(f"the server ended with {process.returncode} before it was ready")
        try:
            yield ServerProcess(process.pid, addresses["url"], addresses["metrics_url"])
        finally:
            process.send_signal(signal.SIGINT)  # SIGTERM would wait for streams that never end
            process.wait()


def _obey_interrupts() -> None:
    """Restore SIGINT in a process started by a background command of a script.

    Such a command ignores SIGINT, and its child processes inherit that.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def free_port() -> int:
    """Return a port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ensure_server(options: LoadOptions) -> Generator[LoadOptions]:
    """Yield options with the URL of a server: the given one, or one that serves the repository.

    Raises:
        ServerEnded: The server that was started did not become ready.
    """
    if options.url or options.repository is None:
        yield options
        return
    with serving(options.repository, chunk_share=options.chunk_share) as server:
        yield replace(options, url=server.url, metrics_url=server.metrics_url)
