"""Samples and levels of the load test, made by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from loadtest.judge import judge, rule_for
from loadtest.metrics import ServerUse
from loadtest.result import Level
from loadtest.samples import Samples
from loadtest.transcripts import Comparison

CHUNK_MS = 320
HOLD_S = 10.0
ALIKE = Comparison(compared=8, different=0, changed=0, example="", wer=None)


def samples(streams: int = 8, latency_ms: float = 50.0, **changed: Any) -> Samples:
    """``streams`` speakers over the hold, every chunk answered after ``latency_ms``."""
    due_s = np.arange(0.1, HOLD_S, CHUNK_MS / 1000)
    count = streams * len(due_s)
    taken = Samples(
        speaker=np.repeat(np.arange(streams), len(due_s)),
        due_s=np.tile(due_s, streams),
        latency_ms=np.full(count, latency_ms),
        lateness_ms=np.zeros(count),
        tick_lateness_ms=np.zeros(500),
        final_ms=np.array([60.0]),
        spoken=[],
        failures=Counter(),
        messages={},
        cpu_s=[1.0],
    )
    return replace(taken, **changed)


def judged(taken: Samples, streams: int = 8, texts: Comparison = ALIKE) -> Level:
    """The verdict on ``taken``."""
    return judge(taken, streams, rule_for(CHUNK_MS, HOLD_S), False, texts, ServerUse())


def level(streams: int, latency_ms: float, late_ms: float = 0.0) -> Level:
    """A level with this chunk latency, from a generator that was so late."""
    return judged(samples(streams, latency_ms, tick_lateness_ms=np.full(500, late_ms)), streams)
