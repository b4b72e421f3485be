"""Run a soak: streams in this process, streams that vanish in another, and readings."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace

import earshot
import numpy as np

from loadtest.audio.recordings import load_clips
from loadtest.audio.scripts import write_scripts
from loadtest.capacity.conditions import conditions, is_local
from loadtest.live.check import latency_of
from loadtest.live.transcripts import TranscriptComparer, allowed_change, record_reference
from loadtest.options import LoadOptions
from loadtest.service.connection import connect
from loadtest.service.metrics import processes_behind
from loadtest.service.server import ensure_server
from loadtest.soak.document import SCHEMA, Reading, SoakResult, Streams, leaks
from loadtest.soak.readings import ServerReader
from loadtest.soak.users import Tally
from loadtest.soak.users import soak as hold_streams
from loadtest.soak.vanishing import LIFE_S, Vanishing

VANISHING_SHARE = 1 / 8
"""Streams that vanish, as a share of the others."""
SETTLE_S = 5.0

Say = Callable[[str], None]


class Unsuitable(Exception):
    """The server cannot be soaked with these options."""


def measure(options: LoadOptions, streams: int, every_s: float, say: Say) -> SoakResult:
    """Soak the server of `options`, or one on their repository.

    Raises:
        EarshotError: The server cannot be reached.
        ServerEnded: The server that was started did not become ready.
        Unsuitable: The server has too few slots.
        ValueError: There are no recordings, or the server outputs no text for them.
    """
    with ensure_server(options) as served:
        clips = load_clips(served.speech)
        scripts = write_scripts(clips, served.min_stream_s)
        with connect(served.url, served.model) as client:
            info = client.info
            vanishing = _vanishing(streams, info)
            say("recording the reference transcripts")
            references = record_reference(client, scripts, lambda done: None)
        found = conditions(info, served, clips, 0)
        comparer = TranscriptComparer(scripts, references, allowed_change(served, info.precision))
        processes = processes_behind(int(info.url.rpartition(":")[2])) if is_local(info.url) else []
        pinned = replace(served, model=info.name or None)
        tally, reader = Tally(), ServerReader(processes, served.metrics_url)
        _wait_for_slots(reader, 0, SETTLE_S)  # those of the references; the metric lags behind
        with _reading(reader, every_s, say) as readings:
            with Vanishing(pinned, vanishing) as vanished:
                work = hold_streams(
                    served.url, pinned.model, scripts, streams, served.hold_s, tally
                )
                asyncio.run(work)
            slots = readings[0].slots or 0
            _wait_for_slots(reader, slots, 2 * info.sequence_idle_ms / 1000 + SETTLE_S)
        texts = comparer.compare(tally.finished)
        ended = tally.ended
        return SoakResult(
            schema=SCHEMA,
            kind="soak",
            passes=not (reasons := _reasons(tally, texts.different, readings, served.hold_s)),
            reasons=reasons,
            live_streams=streams,
            hold_s=served.hold_s,
            streams=Streams(
                ended["finished"],
                ended["closed"],
                ended["stalled"],
                vanished.vanished,
                ended["refused"],
            ),
            failures=dict(tally.failures),
            chunk_latency=latency_of(np.array(tally.latency_ms)),
            unanswered_chunks=tally.unanswered,
            transcripts_compared=texts.compared,
            transcripts_different=texts.different,
            readings=readings,
            conditions=found,
        )


def _vanishing(streams: int, info: earshot.ServerInfo) -> int:
    """Return how many streams vanish at a time; their slots stay taken until they expire."""
    vanishing = max(1, round(streams * VANISHING_SHARE))
    generations = 2 + info.sequence_idle_ms / 1000 / LIFE_S
    needed = streams + round(vanishing * generations)
    if needed > info.max_streams:
        raise Unsuitable(
            f"{streams} streams, and those that vanish beside them, need {needed} slots; "
            f"{info.url} has {info.max_streams}: hold fewer, or export with more --max-streams"
        )
    return vanishing


@contextmanager
def _reading(reader: ServerReader, every_s: float, say: Say) -> Generator[list[Reading]]:
    """Read the server now, every `every_s` seconds, and at the end of the block."""
    start_s = time.monotonic()
    readings = [reader.read(0.0)]
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(every_s):
            readings.append(reader.read(time.monotonic() - start_s))
            if len(readings) % max(1, round(60 / every_s)) == 0:
                say(_line(readings[-1]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield readings
    finally:
        stopped.set()
        watcher.join()
    readings.append(reader.read(time.monotonic() - start_s))


def _line(reading: Reading) -> str:
    memory = "" if reading.rss_bytes is None else f", {reading.rss_bytes / 2**20:.0f} MiB resident"
    slots = "" if reading.slots is None else f", {reading.slots} slots"
    return f"{reading.at_s:.0f} s{memory}{slots}"


def _wait_for_slots(reader: ServerReader, slots: int, limit_s: float) -> None:
    """Wait until at most `slots` slots are taken, if the server shows their number."""
    give_up_s = time.monotonic() + limit_s
    while (reader.slots() or 0) > slots and time.monotonic() < give_up_s:
        time.sleep(0.5)


def _reasons(tally: Tally, different: int, readings: list[Reading], hold_s: float) -> list[str]:
    failed = [
        f"{count} streams failed: {kind} ({tally.messages[kind]})"
        for kind, count in tally.failures.items()
    ]
    texts = [f"{different} transcripts differ from the reference"] if different else []
    missing = [] if tally.finished else ["no stream came to an end"]
    return [*failed, *texts, *missing, *leaks(readings, hold_s)]
