"""A server of its own for a measurement, and what its processes and metrics say."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

READY = "ready:"
_without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerEnded(Exception):
    """The server did not become ready."""


@dataclass(frozen=True)
class ServerProcess:
    """`python -m server`, running."""

    pid: int
    url: str
    metrics_url: str

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds used so far, by model; `triton` is the server process itself."""
        used: dict[str, float] = {}
        for process in psutil.Process(self.pid).children(recursive=True):
            times = process.cpu_times()
            name = _role(process.cmdline())
            used[name] = used.get(name, 0.0) + times.user + times.system
        return used

    def counter(self, metric: str) -> dict[str, float]:
        """Value of a counter by model, all of its instances together."""
        with _without_proxy.open(self.metrics_url, timeout=10) as response:
            families = text_string_to_metric_families(response.read().decode())
        values: dict[str, float] = {}
        for family in families:
            for sample in family.samples:
                # The parser gives every counter the suffix that OpenMetrics wants.
                if sample.name in (metric, f"{metric}_total"):
                    model = sample.labels["model"]
                    values[model] = values.get(model, 0.0) + sample.value
        return values


@contextmanager
def serving(repository: Path) -> Generator[ServerProcess]:
    """Serve ``repository`` on free ports for the length of the block.

    Raises:
        ServerEnded: before it was ready; its own message is on stderr.
    """
    grpc_port, metrics_port = _free_port(), _free_port()
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _role(command: list[str]) -> str:
    """The model a Python backend process serves, read off its command line."""
    if command and "triton_python_backend_stub" in command[0]:
        return Path(command[1]).parent.parent.name  # <repository>/<model>/<version>/model.py
    return "triton"
