"""The rule: when a count of streams is carried, and when nothing can be said about it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from loadtest.metrics import ServerUse
from loadtest.result import Latency, Level, Rule, Timeline
from loadtest.samples import Samples
from loadtest.transcripts import Comparison

KEEP_UP_SHARE = 0.99
LATE_MS = 10.0
"""What comes so much after its time, with nothing to wait for, is the generator's fault."""
LATE_SHARE = 0.01
"""With more than this late, the run says nothing about the server."""
BUSY_CORES = 0.9
"""Nor where a process that speaks had so little to spare: it runs Python on one core at a time, and
answers may have waited for it."""


def rule_for(chunk_ms: int, hold_s: float, p99_ms: float | None = None) -> Rule:
    """The rule for a server; text within one chunk unless ``p99_ms`` says otherwise."""
    return Rule(p99_ms or float(chunk_ms), hold_s, KEEP_UP_SHARE, LATE_MS, LATE_SHARE)


def judge(
    samples: Samples, streams: int, rule: Rule, final: bool, texts: Comparison, server: ServerUse
) -> Level:
    """Hold what was seen of ``streams`` streams over ``rule.hold_s`` seconds against the rule."""
    latency = latency_of(samples.latency_ms)
    sent_ms = samples.lateness_ms[~np.isnan(samples.lateness_ms)]
    late_share = max(_share_late(sent_ms, rule), _share_late(samples.tick_lateness_ms, rule))
    keep_up = _keep_up_share_min(samples, rule)
    broken = list(_broken(samples, streams, rule, latency, keep_up, texts))
    invalid = list(_invalid(samples, rule, late_share))
    return Level(
        streams=streams,
        hold_s=rule.hold_s,
        final=final,
        passes=not broken,
        valid=not invalid,
        reasons=invalid + broken,
        chunk_latency=latency,
        final_latency=latency_of(samples.final_ms) if len(samples.final_ms) else None,
        lateness=latency_of(sent_ms),
        late_share=late_share,
        keep_up_share_min=keep_up,
        failures=dict(samples.failures),
        transcripts_compared=texts.compared,
        transcripts_different=texts.different,
        wer=texts.wer,
        timeline=_timeline(samples, rule.hold_s),
        stages=server.stages,
        server_cpu_cores=server.cpu_cores,
        generator_cpu_cores=sum(samples.cpu_s) / rule.hold_s,
        gpu_utilization=server.gpu_utilization,
        gpu_memory_bytes=server.gpu_memory_bytes,
    )


def latency_of(samples_ms: NDArray[np.float64] | NDArray[np.float32]) -> Latency:
    """Percentiles of raw samples."""
    if not len(samples_ms):
        return Latency(0.0, 0.0, 0.0, 0.0, 0)
    p50, p95, p99, most = np.percentile(samples_ms, (50, 95, 99, 100)).tolist()
    return Latency(p50, p95, p99, most, len(samples_ms))


def _broken(
    samples: Samples,
    streams: int,
    rule: Rule,
    latency: Latency,
    keep_up: float,
    texts: Comparison,
) -> Iterator[str]:
    for kind, count in samples.failures.items():
        yield f"{count} streams failed: {kind} ({samples.messages[kind]})"
    speaking = len(np.unique(samples.speaker))
    if speaking < streams:
        yield f"only {speaking} of {streams} streams were answered"
    if latency.p99_ms >= rule.p99_ms:
        yield f"p99 chunk latency {latency.p99_ms:.0f} ms, allowed {rule.p99_ms:.0f} ms"
    if keep_up < rule.keep_up_share:
        yield f"a stream kept up with {keep_up:.1%} of its audio, at least {rule.keep_up_share:.0%}"
    if texts.different:
        yield (
            f"{texts.different} of {texts.compared} transcripts are not those of a quiet stream, "
            f"as in {texts.example}"
        )
    if not texts.compared:
        yield "no stream came to an end, so no transcript could be compared"


def _invalid(samples: Samples, rule: Rule, late_share: float) -> Iterator[str]:
    if late_share > rule.late_share:
        yield (
            f"the generator was the limit: {late_share:.1%} of its sends or ticks were more than "
            f"{rule.late_ms:.0f} ms late, allowed {rule.late_share:.0%}"
        )
    busiest = max(samples.cpu_s, default=0.0) / rule.hold_s
    if busiest > BUSY_CORES:
        yield (
            f"the generator was the limit: a process used {busiest:.2f} of its core, allowed "
            f"{BUSY_CORES}; start more of them (--processes)"
        )
    if samples.missing:
        yield f"{len(samples.missing)} generator processes did not report to the end"
    elif not len(samples.tick_lateness_ms):
        yield "the generator did not run"


def _share_late(lateness_ms: NDArray[np.float64], rule: Rule) -> float:
    return float((lateness_ms > rule.late_ms).mean()) if len(lateness_ms) else 0.0


def _keep_up_share_min(samples: Samples, rule: Rule) -> float:
    """Audio answered by the end of the hold per audio due by then, of the slowest stream.

    Audio that was due less than the allowed latency before the end may still be under way.
    """
    due = samples.due_s <= rule.hold_s - rule.p99_ms / 1000
    if not due.any():
        return 0.0
    in_time = samples.due_s + samples.latency_ms / 1000 <= rule.hold_s
    _, index = np.unique(samples.speaker[due], return_inverse=True)
    return float((np.bincount(index, in_time[due]) / np.bincount(index)).min())


def _timeline(samples: Samples, hold_s: float) -> Timeline:
    timeline = Timeline([], [], [], [], [], [])
    seconds = samples.due_s.astype(int)
    for second in range(int(np.ceil(hold_s))):
        now = seconds == second
        latency = latency_of(samples.latency_ms[now])
        lateness_ms = samples.lateness_ms[now]
        timeline.second_s.append(float(second))
        timeline.streams.append(len(np.unique(samples.speaker[now])))
        timeline.p50_ms.append(latency.p50_ms)
        timeline.p95_ms.append(latency.p95_ms)
        timeline.p99_ms.append(latency.p99_ms)
        timeline.lateness_p99_ms.append(latency_of(lateness_ms[~np.isnan(lateness_ms)]).p99_ms)
    return timeline
