"""Decide if live streams are sustained, and if a level says anything about the server."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from earshot import ServerInfo
from numpy.typing import NDArray

from loadtest.live.samples import FELL_BEHIND_S, LevelSamples
from loadtest.live.transcripts import TranscriptCheck, allowed_change
from loadtest.options import LoadOptions
from loadtest.result.document import Latency, Level, Rule, Timeline
from loadtest.service.monitor import ServerUse

KEEP_UP_SHARE = 0.99
LATE_MS = 10.0
"""If a send or tick that waits for nothing is this late, it is the load generator's fault."""
LATE_SHARE = 0.01
"""If a larger share of them is late, the level says nothing about the server."""
BUSY_CORES = 0.9
"""The same is true if a worker used more than this: it runs Python on one core at a time, and
answers may have waited for it."""

_SATURATED = "this server is saturated"
_LIMITED = (
    ": it refuses streams by its own limit (--chunk-share), which says nothing about what its "
    "cores carry; measure a server that was started with --chunk-share 0"
)


def rule_for(info: ServerInfo, hold_s: float, options: LoadOptions) -> Rule:
    """Return the rule for a server.

    Unless `options` say otherwise, its allowed p99 is one chunk, and the share of a stream's tokens
    that may differ from the reference depends on its precision.
    """
    return Rule(
        p99_ms=options.p99_ms or float(info.chunk_ms),
        hold_s=hold_s,
        keep_up_share=KEEP_UP_SHARE,
        late_ms=LATE_MS,
        late_share=LATE_SHARE,
        allowed_change=allowed_change(options, info.precision),
    )


def check_level(
    samples: LevelSamples,
    streams: int,
    rule: Rule,
    final: bool,
    transcripts: TranscriptCheck,
    server: ServerUse,
) -> Level:
    """Check the samples of `streams` streams over `rule.hold_s` seconds against the rule."""
    latency = latency_of(samples.latency_ms)
    sent_ms = samples.lateness_ms[~np.isnan(samples.lateness_ms)]
    late_share = max(_late_share(sent_ms, rule), _late_share(samples.tick_lateness_ms, rule))
    keep_up = _keep_up_share_min(samples, rule)
    broken = list(_broken(samples, streams, rule, latency, keep_up, transcripts))
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
        transcripts_compared=transcripts.compared,
        transcripts_different=transcripts.different,
        largest_change=transcripts.largest_change,
        wer=transcripts.wer,
        unanswered_chunks=samples.unanswered,
        timeline=_timeline(samples, rule.hold_s),
        stages=server.stages,
        server_cpu_cores=server.cpu_cores,
        generator_cpu_cores=sum(samples.cpu_s) / rule.hold_s,
        gpu_utilization=server.gpu_utilization,
        gpu_memory_bytes=server.gpu_memory_bytes,
    )


def latency_of(samples_ms: NDArray[np.float64] | NDArray[np.float32]) -> Latency:
    """Return the percentiles of raw samples."""
    if not len(samples_ms):
        return Latency(0.0, 0.0, 0.0, 0.0, 0)
    p50, p95, p99, most = np.percentile(samples_ms, (50, 95, 99, 100)).tolist()
    return Latency(p50, p95, p99, most, len(samples_ms))


def _broken(
    samples: LevelSamples,
    streams: int,
    rule: Rule,
    latency: Latency,
    keep_up: float,
    transcripts: TranscriptCheck,
) -> Iterator[str]:
    for kind, count in samples.failures.items():
        why = _LIMITED if _SATURATED in samples.messages[kind] else ""
        yield f"{count} streams failed: {kind} ({samples.messages[kind]}){why}"
    if samples.unanswered:
        yield (
            f"{samples.unanswered} chunks were never answered; they count with the time that they "
            f"waited, at least {FELL_BEHIND_S:.0f} s"
        )
    answered = len(np.unique(samples.user))
    if answered < streams:
        yield f"only {answered} of {streams} streams were answered"
    if latency.p99_ms >= rule.p99_ms:
        yield f"p99 chunk latency {latency.p99_ms:.0f} ms, allowed {rule.p99_ms:.0f} ms"
    if keep_up < rule.keep_up_share:
        yield f"a stream kept up with {keep_up:.1%} of its audio, at least {rule.keep_up_share:.0%}"
    if transcripts.different:
        yield (
            f"{transcripts.different} of {transcripts.compared} transcripts differ from the "
            f"reference, as in {transcripts.example}"
        )
    if not transcripts.compared:
        yield "no stream came to an end, so no transcript could be compared"


def _invalid(samples: LevelSamples, rule: Rule, late_share: float) -> Iterator[str]:
    if late_share > rule.late_share:
        yield (
            f"the load generator was the limit: {late_share:.1%} of its sends or ticks were more "
            f"than {rule.late_ms:.0f} ms late, allowed {rule.late_share:.0%}"
        )
    busiest = max(samples.cpu_s, default=0.0) / rule.hold_s
    if busiest > BUSY_CORES:
        yield (
            f"the load generator was the limit: a process used {busiest:.2f} of its core, allowed "
            f"{BUSY_CORES}; start more processes (--processes)"
        )
    if samples.missing:
        yield f"{len(samples.missing)} load generator processes did not report to the end"
    elif not len(samples.tick_lateness_ms):
        yield "the load generator did not run"


def _late_share(lateness_ms: NDArray[np.float64], rule: Rule) -> float:
    return float((lateness_ms > rule.late_ms).mean()) if len(lateness_ms) else 0.0


def _keep_up_share_min(samples: LevelSamples, rule: Rule) -> float:
    """Return the smallest share of a stream's due audio that was answered during the hold.

    Audio that was due less than the allowed latency before the end is not counted.
    """
    due = samples.due_s <= rule.hold_s - rule.p99_ms / 1000
    if not due.any():
        return 0.0
    in_time = samples.due_s + samples.latency_ms / 1000 <= rule.hold_s
    _, index = np.unique(samples.user[due], return_inverse=True)
    return float((np.bincount(index, in_time[due]) / np.bincount(index)).min())


def _timeline(samples: LevelSamples, hold_s: float) -> Timeline:
    timeline = Timeline([], [], [], [], [], [])
    seconds = samples.due_s.astype(int)
    for second in range(int(np.ceil(hold_s))):
        within = seconds == second
        latency = latency_of(samples.latency_ms[within])
        lateness_ms = samples.lateness_ms[within]
        timeline.second_s.append(float(second))
        timeline.streams.append(len(np.unique(samples.user[within])))
        timeline.p50_ms.append(latency.p50_ms)
        timeline.p95_ms.append(latency.p95_ms)
        timeline.p99_ms.append(latency.p99_ms)
        timeline.lateness_p99_ms.append(latency_of(lateness_ms[~np.isnan(lateness_ms)]).p99_ms)
    return timeline
