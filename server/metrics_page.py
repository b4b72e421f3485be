"""Serve one page of metrics: Triton's, those of the stages, and those of the launcher.

The stages write their metrics into their heartbeats. The page reads them on each scrape, so that no
chunk waits for a metric.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from . import __version__
from .backends.earshot.earshot_runtime.counts import BATCH_SECONDS
from .heartbeats import read_heartbeats, standstill
from .ports import Endpoints
from .repository import Ensemble, Repository
from .sent_canaries import SentCanaries

_TIMEOUT_S = 5.0
_CHUNKS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.24, 0.32, 0.56, 0.84, 1.12, 2.24)
"""Chunks last 0.08, 0.16, 0.32, 0.56 or 1.12 s, and a chunk that takes longer than that is late."""
_DESCRIPTIONS = {
    "earshot_live_streams": "Streams that hold a slot of the state pool",
    "earshot_adapter_streams": "Streams that have an adapter, by adapter",
    "earshot_adapters": "Adapters in memory",
    "earshot_loaded_adapters": "Adapters that were read into memory",
    "earshot_slots": "Streams that the state pool can hold",
    "earshot_started_streams": "Streams that got a slot",
    "earshot_refused_streams": "Streams that were refused, by reason",
    "earshot_expired_streams": "Streams that were dropped because they were idle too long",
    "earshot_refused_chunks": "Chunks of open streams that broke a rule",
    "earshot_failed_chunks": "Chunks on which the stage itself has failed",
    "earshot_runs": "Runs of the graph",
    "earshot_rows": "Utterances in all runs of the graph",
}
_LABELS = ("model", "instance")
disable_created_metrics()  # An extra series per counter that nobody needs.
_without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class LauncherMetrics:
    """The metrics of the launcher itself."""

    def __init__(self, models: Repository) -> None:
        self.registry = CollectorRegistry()
        self._shown: dict[str, tuple[str, ...]] = {}
        self.draining = Gauge(
            "earshot_draining",
            "1 while new streams are refused before the end",
            registry=self.registry,
        )
        self._canary_s = Histogram(
            "earshot_canary_seconds",
            "Time that a chunk of silence takes through the ensemble, once a second",
            ["model"],
            buckets=_CHUNKS_S,
            registry=self.registry,
        )
        self._stream_limit = Gauge(
            "earshot_stream_limit",
            "Streams that may be open, by --chunk-share",
            ["model"],
            registry=self.registry,
        )
        self._damaged = Counter(
            "earshot_damaged_models",
            "Models that were loaded, have never answered a chunk of silence, and were unloaded",
            ["model"],
            registry=self.registry,
        )
        self._build = Gauge(
            "earshot_build_info",
            "1, with the versions of this software and of Triton as labels",
            ["version", "triton"],
            registry=self.registry,
        )
        self._info = Gauge(
            "earshot_model_info",
            "1, with what is served as labels",
            ["model", "checkpoint", "precision", "runtime", "chunk_ms", "streams"],
            registry=self.registry,
        )
        self.show_models(models.ensembles)

    def show_build(self, triton: str) -> None:
        """Show the running version of Triton."""
        self._build.labels(__version__, triton).set(1)

    def show_models(self, ensembles: Sequence[Ensemble]) -> None:
        """Show these ensembles; remove the values of ensembles that are gone."""
        facts = {ensemble.name: _facts(ensemble) for ensemble in ensembles}
        for name in [name for name in self._shown if facts.get(name) != self._shown[name]]:
            for of_model in (self._canary_s, self._stream_limit):
                with suppress(KeyError):  # there is no value yet
                    of_model.remove(name)
            self._info.remove(*self._shown.pop(name))
        for name in facts.keys() - self._shown.keys():
            self._info.labels(*facts[name]).set(1)
        self._shown = facts

    def count_damaged(self, model: str) -> None:
        """Count a model that was unloaded again."""
        self._damaged.labels(model).inc()

    def observe_canary(self, model: str, took_s: float) -> None:
        """Count a chunk of silence that an ensemble has answered."""
        self._canary_s.labels(model).observe(took_s)

    def observe_limit(self, model: str, streams: int) -> None:
        """Note how many streams an ensemble may hold from now on."""
        self._stream_limit.labels(model).set(streams)


def _facts(ensemble: Ensemble) -> tuple[str, ...]:
    chunk_ms = str(ensemble.chunk_ms or "")
    return (
        ensemble.name,
        ensemble.checkpoint,
        ensemble.precision,
        ensemble.runtime,
        chunk_ms,
        str(ensemble.max_streams or ""),
    )


class StageCollector(Collector):
    """Reads the metrics of the stages from their heartbeats."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics of all running processes."""
        beats = list(read_heartbeats(self._folder))
        now_s = time.monotonic()
        up = GaugeMetricFamily(
            "earshot_stage_up",
            "1 if the process of the stage is alive and does not hang",
            labels=_LABELS,
        )
        for beat in beats:
            up.add_metric(_process(beat), float(standstill(beat, now_s) is None))
        yield up
        yield from _counters_and_gauges(beats)
        yield _batches(beats)


def _process(beat: dict[str, Any]) -> list[str]:
    return [beat[label] for label in _LABELS]


def _counters_and_gauges(beats: list[dict[str, Any]]) -> Iterator[Metric]:
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for beat in beats:
        for name, labels, value in beat["metrics"]:
            base = name.removesuffix("_total")
            if base not in _DESCRIPTIONS:
                continue
            if base not in families:
                kind = GaugeMetricFamily if base == name else CounterMetricFamily
                families[base] = kind(base, _DESCRIPTIONS[base], labels=[*_LABELS, *labels])
            families[base].add_metric([*_process(beat), *labels.values()], value)
    yield from families.values()


def _batches(beats: list[dict[str, Any]]) -> Metric:
    family = HistogramMetricFamily(
        BATCH_SECONDS,
        "Time with a batch at work; the rate of its sum is the busy share",
        labels=_LABELS,
    )
    for beat in beats:
        buckets = [
            (labels["le"], value)
            for name, labels, value in beat["metrics"]
            if name == f"{BATCH_SECONDS}_bucket"
        ]
        sums = [value for name, _, value in beat["metrics"] if name == f"{BATCH_SECONDS}_sum"]
        for seconds in sums:  # one histogram, or none for a stage without streams
            family.add_metric(_process(beat), buckets, seconds)
    return family


class CanaryCollector(Collector):
    """Reads the number of chunks of silence that each ensemble was sent."""

    def __init__(self, sent: SentCanaries) -> None:
        self._sent = sent

    def collect(self) -> Iterable[Metric]:
        """Yield the counts, which `earshot models retire` subtracts from an ensemble's requests."""
        family = CounterMetricFamily(
            "earshot_canary_requests",
            "Chunks of silence that the launcher and `server health` have sent to the ensemble",
            labels=["model"],
        )
        for ensemble, count in self._sent.read().items():
            family.add_metric([ensemble], count)
        yield family


@contextmanager
def metrics_page(
    endpoints: Endpoints, heartbeats: Path, launcher: LauncherMetrics
) -> Generator[None]:
    """Serve the page at `/metrics` of the metrics port for the length of the block."""
    launcher.registry.register(StageCollector(heartbeats))
    launcher.registry.register(CanaryCollector(SentCanaries(heartbeats)))

    def page() -> bytes:
        return _triton(endpoints.triton_metrics_url) + generate_latest(launcher.registry)

    server = ThreadingHTTPServer((endpoints.host, endpoints.metrics_port), _handler(page))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _triton(url: str) -> bytes:
    """Return Triton's page, or nothing if it does not answer, as while it loads or drains."""
    try:
        with _without_proxy.open(url, timeout=_TIMEOUT_S) as response:
            return response.read()
    except OSError:
        return b""


def _handler(page: Callable[[], bytes]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404, "expected /metrics")
                return
            body = page()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Do not log scrapes."""

    return Handler
