"""Sample data for tests: samples of a level, and levels checked by the rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from loadtest.live.check import KEEP_UP_SHARE, LATE_MS, LATE_SHARE, check_level
from loadtest.live.samples import LevelSamples
from loadtest.live.transcripts import TranscriptCheck
from loadtest.result.document import Level, Rule
from loadtest.service.monitor import ServerUse

CHUNK_MS = 320
HOLD_S = 10.0
SAME = TranscriptCheck(compared=8, different=0, changed=0, example="", wer=None)


def samples(streams: int = 8, latency_ms: float = 50.0, **changed: Any) -> LevelSamples:
    """Return samples of `streams` streams, every chunk answered after `latency_ms`."""
    due_s = np.arange(0.1, HOLD_S, CHUNK_MS / 1000)
    count = streams * len(due_s)
    recorded = LevelSamples(
        user=np.repeat(np.arange(streams), len(due_s)),
        due_s=np.tile(due_s, streams),
        latency_ms=np.full(count, latency_ms),
        lateness_ms=np.zeros(count),
        tick_lateness_ms=np.zeros(500),
        final_ms=np.array([60.0]),
        finished=[],
        failures=Counter(),
        messages={},
        cpu_s=[1.0],
    )
    return replace(recorded, **changed)


def checked(recorded: LevelSamples, streams: int = 8, transcripts: TranscriptCheck = SAME) -> Level:
    """Check `recorded` against the rule."""
    rule = Rule(CHUNK_MS, HOLD_S, KEEP_UP_SHARE, LATE_MS, LATE_SHARE)
    return check_level(recorded, streams, rule, False, transcripts, ServerUse())


def level(streams: int, latency_ms: float, late_ms: float = 0.0) -> Level:
    """Return a level with this chunk latency, and this lateness of the load generator."""
    return checked(samples(streams, latency_ms, tick_lateness_ms=np.full(500, late_ms)), streams)
