"""Report the counts of a stage as metrics of Triton.

Setting a metric is a round trip to Triton's process. So a thread sends what has changed, once per
interval: no chunk waits for it, and its cost does not grow with the load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

Sample = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a metric, and the labels that it has beside those of its process."""
Values = Mapping[Sample, float]

DESCRIPTIONS = {
    "earshot_live_streams": "Streams that hold a slot of the state pool",
    "earshot_slots": "Streams that the state pool can hold",
    "earshot_started_streams_total": "Streams that have got a slot",
    "earshot_refused_streams_total": "Streams that have got none, by reason",
    "earshot_expired_streams_total": "Streams that were dropped because they were idle too long",
    "earshot_refused_chunks_total": "Chunks of open streams that broke a rule",
    "earshot_failed_chunks_total": "Chunks on which the stage itself has failed",
    "earshot_busy_seconds_total": "Time with a batch at work; its rate is the busy share",
    "earshot_batch_seconds_bucket": "Batches that took at most `le` seconds",
    "earshot_heartbeat_timestamp_seconds": "When the process last showed that it lives",
    "earshot_build_info": "1, with what is served as labels",
}


class Metric(Protocol):
    """The methods of Triton's custom metric that are used here."""

    def set(self, value: float) -> None:
        """Set a gauge."""

    def increment(self, value: float) -> None:
        """Raise a counter."""


class Family(Protocol):
    """Triton's family of metrics of one name."""

    def Metric(self, labels: Mapping[str, str]) -> Metric:
        """Return the metric of the family with these labels."""
        ...


MakeFamily = Callable[[str, str, bool], Family]
"""Makes a family from a name, a description, and whether it is a gauge."""


class Publisher:
    """Sends the values that have changed to Triton."""

    def __init__(self, make_family: MakeFamily, labels: Mapping[str, str]) -> None:
        self._make_family = make_family
        self._labels = labels
        # Triton removes a family's metrics when the family object dies.
        self._families: dict[str, Family] = {}
        self._metrics: dict[Sample, Metric] = {}
        self._reported: dict[Sample, float] = {}

    def publish(self, values: Values) -> None:
        """Send what has changed; what cannot be sent is part of the next call."""
        for sample, value in values.items():
            # First also a 0: a counter begins there, and a gauge may still show an earlier process.
            before = self._reported.get(sample)
            if value != before:
                self._send(sample, value, before or 0)
                self._reported[sample] = value

    def close(self) -> None:
        """Set the gauges to 0 and release the metrics, which must not outlive the interpreter."""
        self.publish({sample: 0 for sample in self._reported if _is_gauge(sample)})
        self._metrics.clear()
        self._families.clear()

    def _send(self, sample: Sample, value: float, before: float) -> None:
        metric = self._metrics.get(sample) or self.open(sample)
        if _is_gauge(sample):
            metric.set(value)
        else:
            metric.increment(value - before)

    def open(self, sample: Sample) -> Metric:
        """Return the metric of a sample, which is made at the first call."""
        name, labels = sample
        if name not in self._families:
            family = self._make_family(name, DESCRIPTIONS[name], _is_gauge(sample))
            self._families[name] = family
        metric = self._families[name].Metric(labels={**self._labels, **dict(labels)})
        self._metrics[sample] = metric
        return metric


def _is_gauge(sample: Sample) -> bool:
    return not sample[0].endswith(("_total", "_bucket"))
