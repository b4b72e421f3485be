"""A server of its own for a measurement, and what its processes and metrics say."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

READY = "ready:"
_without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerEnded(Exception):
    """The server did not become ready."""


@dataclass(frozen=True)
class Metrics:
    """One reading of Triton's metrics; empty if they were not to be had."""

    samples: list[tuple[str, dict[str, str], float]] = field(
        default_factory=list[tuple[str, dict[str, str], float]]
    )

    def by_model(self, metric: str) -> dict[str, float]:
        """Value of a counter by model, all of its instances together."""
        values: dict[str, float] = {}
        for labels, value in self._of(metric):
            if "model" in labels:
                values[labels["model"]] = values.get(labels["model"], 0.0) + value
        return values

    def gpus(self, metric: str) -> list[float]:
        """Value of a gauge by GPU."""
        return [value for labels, value in self._of(metric) if "gpu_uuid" in labels]

    def _of(self, metric: str) -> list[tuple[dict[str, str], float]]:
        # The parser gives every counter the suffix that OpenMetrics wants.
        names = (metric, f"{metric}_total")
        return [(labels, value) for name, labels, value in self.samples if name in names]


def read_metrics(url: str | None) -> Metrics:
    """What ``url`` says now; nothing if there is no such page."""
    if url is None:
        return Metrics()
    try:
        with _without_proxy.open(url, timeout=10) as response:
            families = list(text_string_to_metric_families(response.read().decode()))
    except (OSError, ValueError):
        return Metrics()
    return Metrics([(s.name, dict(s.labels), s.value) for f in families for s in f.samples])


def cpu_s_by_model(processes: Iterable[psutil.Process]) -> dict[str, float]:
    """CPU seconds used so far, by model; `triton` is the server process itself."""
    used: dict[str, float] = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            name = _role(process.cmdline())
            used[name] = used.get(name, 0.0) + times.user + times.system
    return used


def processes_behind(port: int) -> list[psutil.Process]:
    """The server that listens on ``port`` of this machine, and its children; may be hidden."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.pid is not None
            if listens and connection.laddr and connection.laddr[1] == port:
                server = psutil.Process(connection.pid)
                return [server, *server.children(recursive=True)]
    return []


@dataclass(frozen=True)
class ServerProcess:
    """`python -m server`, running."""

    pid: int
    url: str
    metrics_url: str

    def processes(self) -> list[psutil.Process]:
        """Triton and its backends."""
        return psutil.Process(self.pid).children(recursive=True)

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds used so far, by model; `triton` is the server process itself."""
        return cpu_s_by_model(self.processes())

    def counter(self, metric: str) -> dict[str, float]:
        """Value of a Triton counter by model."""
        return read_metrics(self.metrics_url).by_model(metric)


@contextmanager
def serving(repository: Path) -> Generator[ServerProcess]:
    """Serve ``repository`` on free ports for the length of the block.

    Raises:
        ServerEnded: before it was ready; its own message is on stderr.
    """
    grpc_port, metrics_port = free_port(), free_port()
    arguments = ["--repository", str(repository), "--grpc-port", str(grpc_port)]
    arguments += ["--metrics-port", str(metrics_port)]
    command = [sys.executable, "-m", "server", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith(READY):
            process.wait()
            raise ServerEnded(f"the server ended with {process.returncode} before it was ready")
        try:
            yield ServerProcess(
                process.pid,
                f"127.0.0.1:{grpc_port}",
                f"http://127.0.0.1:{metrics_port}/metrics",
            )
        finally:
            process.terminate()
            process.wait()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _role(command: list[str]) -> str:
    """The model a Python backend process serves, read off its command line."""
    if command and "triton_python_backend_stub" in os.path.basename(command[0]):
        return Path(command[1]).parent.parent.name  # <repository>/<model>/<version>/model.py
    return "triton"
