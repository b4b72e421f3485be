"""Refuse new streams while chunks take too long, so that the open streams stay in time.

Slots say how many streams fit into memory, not how many the cores carry. That shows in the time
from a chunk's arrival to its text, which Triton counts for every chunk of an ensemble: it grows
with the load, and a stream is late when it exceeds the length of a chunk.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .backends.earshot.earshot_runtime.heartbeat import saturated_flag
from .repository import Ensemble

INTERVAL_S = 0.5
_REOPEN = 0.7
_CALM = 6
"""New streams are taken again after so many intervals below this share of the limit.

Streams that were late catch up first, and send their chunks one after the other.
"""
_TIMEOUT_S = 5.0
_SAMPLE = re.compile(
    r'^nv_inference_request_summary_us_(sum|count){model="([^"]+)",version="[^"]+"} (\S+)$',
    re.MULTILINE,
)
_WAITING = re.compile(r"^nv_inference_pending_request_count{.*} (\S+)$", re.MULTILINE)


@dataclass
class _Gate:
    """The decision for one ensemble."""

    limit_s: float
    total_s: float = 0.0
    chunks: float = 0.0
    closed: bool = False
    calm: int = 0

    def update(self, total_s: float, chunks: float, waiting: bool) -> bool:
        """Take the sums so far; return True if new streams are to be refused from now on.

        Args:
            waiting: chunks wait at some stage; if none has been answered, they tell nothing yet.
        """
        answered = chunks - self.chunks
        if not answered and waiting:
            return self.closed
        mean_s = (total_s - self.total_s) / answered if answered else 0.0
        self.total_s, self.chunks = total_s, chunks
        self.calm = self.calm + 1 if mean_s < _REOPEN * self.limit_s else 0
        self.closed = mean_s > self.limit_s or (self.closed and self.calm < _CALM)
        return self.closed


class Admission:
    """Opens and closes the first stages of a server's streaming ensembles to new streams."""

    def __init__(
        self, metrics_url: str, ensembles: Sequence[Ensemble], folder: Path, chunk_share: float
    ) -> None:
        """Refuse while the mean chunk takes longer than `chunk_share` of its length.

        Args:
            folder: where the stages look for the decision.
        """
        self._metrics_url = metrics_url
        self._folder = folder
        self._ensembles = [ensemble for ensemble in ensembles if ensemble.chunk_ms]
        self._gates = {
            ensemble.name: _Gate(chunk_share * ensemble.chunk_ms / 1000)
            for ensemble in self._ensembles
        }

    def measure(self) -> None:
        """Read the metrics, and decide anew."""
        try:
            with urllib.request.urlopen(self._metrics_url, timeout=_TIMEOUT_S) as response:
                self.decide(response.read().decode())
        except OSError:  # no answer in time: what was decided stays
            return

    def decide(self, metrics: str) -> None:
        """Decide from the text of Triton's metrics."""
        values = {(model, kind): float(value) for kind, model, value in _SAMPLE.findall(metrics)}
        waiting = any(float(count) for count in _WAITING.findall(metrics))
        for ensemble in self._ensembles:
            total_us = values.get((ensemble.name, "sum"), 0.0)
            chunks = values.get((ensemble.name, "count"), 0.0)
            flag = saturated_flag(self._folder, ensemble.first_stage)
            if self._gates[ensemble.name].update(total_us / 1e6, chunks, waiting):
                flag.touch()
            else:
                flag.unlink(missing_ok=True)
