"""Measure the use of the server during a hold, from Triton's counters and CPU times.

Counters are read before and after the hold; the difference is the use of the hold.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

import psutil

from loadtest.result.document import StageUse
from loadtest.service.metrics import Metrics, cpu_s_by_model, read_metrics

ENGINE_SUFFIX = "_engine"
"""Suffix of the name, in metrics and results, of the engine that the processes of a model share."""
_BATCH_SECONDS = "earshot_batch_seconds"
_COMPUTE = tuple(
    f"nv_inference_compute_{part}_duration_us" for part in ("input", "infer", "output")
)


@dataclass(frozen=True)
class ServerUse:
    """Use of the server over one hold."""

    stages: list[StageUse] = field(default_factory=list[StageUse])
    cpu_cores: float | None = None
    gpu_utilization: float | None = None
    gpu_memory_bytes: int | None = None


@dataclass(frozen=True)
class _Reading:
    at_s: float
    metrics: Metrics
    cpu_s: dict[str, float]


class ServerMonitor:
    """Measures the use of one server, as far as its metrics and processes are visible."""

    def __init__(
        self, metrics_url: str | None, processes: list[psutil.Process], ensemble: str
    ) -> None:
        self._metrics_url = metrics_url
        self._ensemble = ensemble
        self._processes = processes
        self._before = self._read()
        self._gpu: list[tuple[float, float]] = []

    @property
    def has_metrics(self) -> bool:
        """Return `True` if the server's metrics could be read."""
        return bool(self._before.metrics.samples)

    @property
    def gpus(self) -> int:
        """Return the number of GPUs that the server reports."""
        return len(self._before.metrics.gpus("nv_gpu_memory_total_bytes"))

    def begin(self) -> None:
        """Begin a hold."""
        self._before = self._read()
        self._gpu = []

    def sample(self) -> None:
        """Record the GPU utilization, which unlike the counters is a momentary value."""
        if self.gpus:
            metrics = read_metrics(self._metrics_url)
            use = metrics.gpus("nv_gpu_utilization")
            memory = metrics.gpus("nv_gpu_memory_used_bytes")
            if use:
                self._gpu.append((sum(use) / len(use), sum(memory)))

    def end(self) -> ServerUse:
        """End the hold and return its use of the server."""
        before, after = self._before, self._read()
        seconds = after.at_s - before.at_s
        cpu_s = {name: used - before.cpu_s.get(name, 0.0) for name, used in after.cpu_s.items()}
        return ServerUse(
            stages=stages_between(before.metrics, after.metrics, cpu_s, seconds, self._ensemble),
            cpu_cores=sum(cpu_s.values()) / seconds if cpu_s else None,
            gpu_utilization=(
                sum(use for use, _ in self._gpu) / len(self._gpu) if self._gpu else None
            ),
            gpu_memory_bytes=int(max(memory for _, memory in self._gpu)) if self._gpu else None,
        )

    def _read(self) -> _Reading:
        return _Reading(
            time.monotonic(), read_metrics(self._metrics_url), cpu_s_by_model(self._processes)
        )


def stages_between(
    before: Metrics, after: Metrics, cpu_s: dict[str, float], seconds: float, ensemble: str
) -> list[StageUse]:
    """Return the use of each stage between two readings.

    Args:
        cpu_s: CPU seconds by model.
        seconds: time between the readings.
        ensemble: name of the model that is not a stage.
    """

    def spent(metric: str) -> dict[str, float]:
        earlier = defaultdict(float, before.by_model(metric))
        return {name: value - earlier[name] for name, value in after.by_model(metric).items()}

    requests, runs = spent("nv_inference_count"), spent("nv_inference_exec_count")
    queue_us = spent("nv_inference_queue_duration_us")
    compute_us = [spent(metric) for metric in _COMPUTE]
    stages = [
        StageUse(
            model=name,
            mean_batch=count / max(1.0, runs[name]),
            queue_ms=queue_us[name] / count / 1000,
            compute_ms=sum(part[name] for part in compute_us) / count / 1000,
            requests=round(count),
            cpu_cores=cpu_s[name] / seconds if name in cpu_s else None,
        )
        for name, count in requests.items()
        if count > 0 and name != ensemble
    ]
    engine_s, batches = spent(f"{_BATCH_SECONDS}_sum"), spent(f"{_BATCH_SECONDS}_count")
    return stages + [
        _engine(stage, batches[name], engine_s[name])
        for stage in stages
        if batches.get(name := f"{stage.model}{ENGINE_SUFFIX}")
    ]


def _engine(stage: StageUse, batches: float, seconds: float) -> StageUse:
    """Return the use of the engine that the processes of a stage share."""
    return StageUse(
        model=f"{stage.model}{ENGINE_SUFFIX}",
        mean_batch=stage.requests / batches,
        queue_ms=0.0,
        compute_ms=1000 * seconds / batches,
        requests=stage.requests,
        cpu_cores=None,  # included in those of the stage
    )
