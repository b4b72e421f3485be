"""Read Triton's metrics, and the CPU time of the server's processes."""

from __future__ import annotations

import contextlib
import os
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from loadtest.service.stages import TRITON

_without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Metrics:
    """One reading of Triton's metrics; empty if they could not be read."""

    samples: list[tuple[str, dict[str, str], float]] = field(
        default_factory=list[tuple[str, dict[str, str], float]]
    )

    def by_model(self, metric: str) -> dict[str, float]:
        """Return the value of a counter by model, summed over the model's instances."""
        values: dict[str, float] = {}
        for labels, value in self._of(metric):
            if "model" in labels:
                values[labels["model"]] = values.get(labels["model"], 0.0) + value
        return values

    def gpus(self, metric: str) -> list[float]:
        """Return the value of a gauge for each GPU."""
        return [value for labels, value in self._of(metric) if "gpu_uuid" in labels]

    def _of(self, metric: str) -> list[tuple[dict[str, str], float]]:
        # The parser adds the suffix of OpenMetrics to every counter.
        names = (metric, f"{metric}_total")
        return [(labels, value) for name, labels, value in self.samples if name in names]


def read_metrics(url: str | None) -> Metrics:
    """Read the metrics at `url`; they are empty if there is no such page."""
    if url is None:
        return Metrics()
    try:
        with _without_proxy.open(url, timeout=10) as response:
            families = list(text_string_to_metric_families(response.read().decode()))
    except (OSError, ValueError):
        return Metrics()
    return Metrics([(s.name, dict(s.labels), s.value) for f in families for s in f.samples])


def cpu_s_by_model(processes: Iterable[psutil.Process]) -> dict[str, float]:
    """Return the CPU seconds used so far by model; `triton` is the server process itself."""
    used: dict[str, float] = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            name = _model_of(process.cmdline())
            used[name] = used.get(name, 0.0) + times.user + times.system
    return used


def processes_behind(port: int) -> list[psutil.Process]:
    """Return the server that listens on `port` of this machine and its children, if visible."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.pid is not None
            if listens and connection.laddr and connection.laddr[1] == port:
                server = psutil.Process(connection.pid)
                return [server, *server.children(recursive=True)]
    return []


def _model_of(command: list[str]) -> str:
    """Return the model that a process serves, from its command line."""
    if any(argument.endswith(".engine_process") for argument in command):
        return command[-1]  # `python3 -m <module> <model>`: a shared engine
    if command and "triton_python_backend_stub" in os.path.basename(command[0]):
        return Path(command[1]).parent.parent.name  # <repository>/<model>/<version>/model.py
    return TRITON
