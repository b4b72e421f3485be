"""The JSON document of a soak: the server's resources at the start, during it, and at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from loadtest.result.document import Conditions, Latency
from loadtest.result.stored import Stored

SCHEMA = 1
MIB = 2**20
RSS_GROWTH_BYTES, RSS_GROWTH_SHARE = 64 * MIB, 0.05
"""Resident memory may grow by the larger of these, as allocators keep the memory of a burst."""
FDS_GROWTH = 8
SETTLED_SHARE = 0.2
"""Share of the soak after which the server has warmed up and its memory must stay constant."""


@dataclass(frozen=True)
class Reading:
    """The server's resources at one time."""

    at_s: float
    """Seconds since the start of the soak."""
    rss_bytes: int | None
    """Resident memory of all its processes; `None` if they are not visible."""
    shm_bytes: int | None
    """Shared memory of these processes, under /dev/shm."""
    file_descriptors: int | None
    slots: int | None
    """Open streams of the stage that holds the most; `None` without the server's metrics."""


@dataclass(frozen=True)
class Streams:
    """Numbers of streams, by their intended end."""

    finished: int
    """Streams sent to the end, some with pauses."""
    closed: int
    """Streams closed by the client before their end."""
    stalled: int
    """Streams that were silent for longer than the server waits, and dropped by it."""
    vanished: int
    """Streams whose process was killed."""
    refused: int
    """Streams that did not begin, because the server had no free slot."""


@dataclass(frozen=True)
class SoakResult(Stored):
    """A soak and its verdict."""

    NOUN: ClassVar[str] = "a soak"

    schema: int
    kind: Literal["soak"]
    passes: bool
    reasons: list[str]
    """Reasons why it fails."""
    live_streams: int
    hold_s: float
    streams: Streams
    failures: dict[str, int]
    """Number of streams that failed unexpectedly, by kind of error."""
    chunk_latency: Latency
    unanswered_chunks: int
    transcripts_compared: int
    transcripts_different: int
    readings: list[Reading]
    """Readings, the first before the streams begin, the last after all of them are gone."""
    conditions: Conditions

    @property
    def settled(self) -> Reading:
        """Return the first reading of the warm server."""
        return settled(self.readings, self.hold_s)


def settled(readings: list[Reading], hold_s: float) -> Reading:
    """Return the first reading after the server has warmed up."""
    late = [reading for reading in readings if reading.at_s >= SETTLED_SHARE * hold_s]
    return late[0] if late else readings[-1]


def leaks(readings: list[Reading], hold_s: float) -> list[str]:
    """Return the resources that the server holds at the end but did not hold before."""
    start, warm, end = readings[0], settled(readings, hold_s), readings[-1]
    reasons: list[str] = []
    if end.slots is not None and start.slots is not None and end.slots > start.slots:
        reasons.append(f"{end.slots} slots are taken at the end, {start.slots} were at the start")
    if end.rss_bytes is not None and warm.rss_bytes is not None:
        allowed = max(RSS_GROWTH_BYTES, RSS_GROWTH_SHARE * warm.rss_bytes)
        if (grown := end.rss_bytes - warm.rss_bytes) > allowed:
            reasons.append(
                f"resident memory has grown by {grown / MIB:.0f} MiB since {warm.at_s:.0f} s, "
                f"allowed {allowed / MIB:.0f} MiB"
            )
    if end.shm_bytes is not None and warm.shm_bytes is not None and end.shm_bytes > warm.shm_bytes:
        grown = end.shm_bytes - warm.shm_bytes
        reasons.append(f"shared memory has grown by {grown / MIB:.1f} MiB since {warm.at_s:.0f} s")
    fds, before = end.file_descriptors, warm.file_descriptors
    if fds is not None and before is not None and fds > before + FDS_GROWTH:
        reasons.append(f"{fds} file descriptors are open at the end, {before} were when warm")
    return reasons
