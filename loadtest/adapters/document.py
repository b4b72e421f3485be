"""The JSON document of a measurement of adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from loadtest.result.document import Conditions, Latency
from loadtest.result.stored import Stored

SCHEMA = 1


@dataclass(frozen=True)
class Level:
    """Live streams over which some adapters are spread."""

    adapters: int
    """0: all streams have none."""
    streams: int
    stream_s: float
    """Seconds of audio that were answered."""
    cpu_ms_per_stream_s: dict[str, float]
    """CPU time of the server for a second of one stream, by model; `triton` is Triton itself."""
    total_cpu_ms_per_stream_s: float
    streams_per_core_ratio: float
    """To that of the levels without adapters in the same run."""
    chunk_latency: Latency
    failures: int


@dataclass(frozen=True)
class Changes:
    """Adapters that went live, or away, while other streams ran."""

    adapters: int
    mean_ms: float
    slowest_ms: float


@dataclass(frozen=True)
class AdaptersResult(Stored):
    """What many adapters cost."""

    NOUN: ClassVar[str] = "a measurement of adapters"

    schema: int
    kind: Literal["adapters"]
    adapter_rank: int
    """The rank that the models were exported for, which every adapter costs."""
    adapter_slots: int
    """Adapters that a process holds at once."""
    adapter_bytes: int
    """Of the file of one adapter."""
    memory_bytes_per_adapter: int
    """What the server's processes grew by, from the first level to the last, for each adapter."""
    loaded: Changes
    """From asking Triton for an adapter to the first answer to a stream that has it."""
    retired: Changes
    live_streams: int
    """Streams that ran while adapters were loaded and retired."""
    live_failures: int
    """Those of them that failed."""
    levels: list[Level]
    conditions: Conditions
