"""Run an overload test, and decide if it passes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from loadtest.audio.recordings import load_clips
from loadtest.audio.scripts import write_scripts
from loadtest.capacity.conditions import conditions
from loadtest.live.check import latency_of
from loadtest.live.transcripts import (
    TranscriptCheck,
    TranscriptComparer,
    allowed_change,
    record_reference,
)
from loadtest.options import LoadOptions
from loadtest.overload.document import SCHEMA, OverloadResult, Second
from loadtest.overload.users import Tally, offer
from loadtest.result.document import Latency
from loadtest.service.connection import connect
from loadtest.service.server import ensure_server

REFUSAL_P99_MS = 100.0


def measure(options: LoadOptions, users: int, arrival_s: float) -> OverloadResult:
    """Offer `users` live streams to the server of `options`, or one on their repository.

    Raises:
        EarshotError: The server cannot be reached.
        ServerEnded: The server that was started did not become ready.
        ValueError: There are no recordings, or the server outputs no text for them.
    """
    with ensure_server(options) as served:
        clips = load_clips(served.speech)
        scripts = write_scripts(clips, served.min_stream_s)
        with connect(served.url, served.model) as client:
            info = client.info
            references = record_reference(client, scripts, lambda done: None)
        found = conditions(info, served, clips, 0)
        comparer = TranscriptComparer(scripts, references, allowed_change(served, info.precision))
        tally, began_s = Tally(), time.monotonic()
        live = asyncio.run(
            _watched(
                tally,
                offer(served.url, served.model, scripts, users, arrival_s, served.hold_s, tally),
                began_s,
            )
        )
        held_s = began_s + arrival_s
        chunks = latency_of(np.array([ms for due_s, ms in tally.chunks if due_s >= held_s]))
        refusals = latency_of(np.array([ms for _, ms in tally.refusals]))
        texts = comparer.compare(tally.finished)
        bound_ms = served.p99_ms or float(info.chunk_ms)
        reasons = list(_reasons(tally, chunks, refusals, texts, bound_ms))
        hold = live[int(arrival_s) : int(arrival_s + served.hold_s)]
        return OverloadResult(
            schema=SCHEMA,
            kind="overload",
            passes=not reasons,
            reasons=reasons,
            chunk_share=None if options.url else options.chunk_share,
            users=users,
            arrival_s=arrival_s,
            hold_s=served.hold_s,
            live_mean=float(np.mean(hold)),
            chunk_latency=chunks,
            refusal_latency=refusals,
            p99_ms=bound_ms,
            refusal_p99_ms=REFUSAL_P99_MS,
            failures=dict(tally.failures),
            transcripts_compared=texts.compared,
            transcripts_different=texts.different,
            seconds=_seconds(tally, live, began_s),
            conditions=found,
        )


async def _watched(tally: Tally, work: object, began_s: float) -> list[int]:
    """Run `work`; return the number of open streams in each second since `began_s`.

    If this process was delayed in a second, that second has the number seen afterwards.
    """
    live: list[int] = []
    task = asyncio.ensure_future(work)  # pyright: ignore
    while True:
        seconds = int(time.monotonic() - began_s) + 1
        live += [tally.live] * (seconds - len(live))
        if task.done():
            break
        await asyncio.wait([task], timeout=max(0.0, began_s + seconds - time.monotonic()))
    await task
    return live


def _seconds(tally: Tally, live: Sequence[int], began_s: float) -> list[Second]:
    chunks: dict[int, list[float]] = {}
    for due_s, ms in tally.chunks:
        chunks.setdefault(int(due_s - began_s), []).append(ms)
    refused = Counter(int(at_s - began_s) for at_s, _ in tally.refusals)
    return [
        Second(
            count,
            refused[second],
            round(float(np.percentile(chunks.get(second, [0.0]), 99)), 1),
        )
        for second, count in enumerate(live)
    ]


def _reasons(
    tally: Tally, chunks: Latency, refusals: Latency, texts: TranscriptCheck, bound_ms: float
) -> list[str]:
    reasons = [
        f"{count} admitted streams failed: {kind} ({tally.messages[kind]})"
        for kind, count in tally.failures.items()
    ]
    if chunks.p99_ms > bound_ms or not chunks.count:
        reasons.append(f"p99 of the admitted streams is {chunks.p99_ms:.0f} ms > {bound_ms:.0f} ms")
    if refusals.p99_ms > REFUSAL_P99_MS:
        reasons.append(f"p99 of the refusals is {refusals.p99_ms:.0f} ms > {REFUSAL_P99_MS:.0f} ms")
    if not refusals.count:
        reasons.append("nobody was refused: offer more, to a server with --chunk-share")
    if texts.different:
        reasons.append(f"{texts.different} transcripts differ from the reference")
    return reasons
