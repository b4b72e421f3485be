"""The JSON document of a measurement of adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from loadtest.result.document import Conditions, Latency
from loadtest.result.stored import Stored

SCHEMA = 1


@dataclass(frozen=True)
class Level:
    """Live streams that use some number of adapters."""

    adapters: int
    """Number of adapters; 0 if no stream has one."""
    streams: int
    stream_s: float
    """Seconds of audio that were answered."""
    cpu_ms_per_stream_s: dict[str, float]
    """Milliseconds of the server's CPU time per second of a stream, by model; `triton` is Triton
    itself."""
    total_cpu_ms_per_stream_s: float
    streams_per_core_ratio: float
    """Streams per core, relative to the levels without adapters in the same run."""
    chunk_latency: Latency
    failures: int


@dataclass(frozen=True)
class Changes:
    """Adapters that were loaded, or retired, while other streams ran."""

    adapters: int
    mean_ms: float
    slowest_ms: float


@dataclass(frozen=True)
class AdaptersResult(Stored):
    """The cost of many adapters."""

    NOUN: ClassVar[str] = "a measurement of adapters"

    schema: int
    kind: Literal["adapters"]
    adapter_rank: int
    """The rank for which the models were exported, which determines the cost of every adapter."""
    adapter_slots: int
    """Number of adapters that a process holds at once."""
    adapter_bytes: int
    """Size of the file of one adapter."""
    memory_bytes_per_adapter: int
    """Growth of the server's processes per adapter, from the first level to the last."""
    loaded: Changes
    """Times from the request to load an adapter to the first answer to a stream with it."""
    retired: Changes
    live_streams: int
    """Streams that ran while adapters were loaded and retired."""
    live_failures: int
    """Number of these streams that failed."""
    levels: list[Level]
    conditions: Conditions
