"""What a run of the capacity search, or of one level, leaves behind: one JSON document.

The search writes it; the report, the planner and a pipeline read it. Times are in milliseconds
unless the name says otherwise. Latencies are percentiles of raw samples, never of rounded ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from loadtest.comparison import Comparison
from loadtest.files import write_whole

SCHEMA = 1

Verdict = Literal["pass", "fail", "invalid"]
"""Of a search, `pass` means that a count was found and held. `invalid`: the generator of the load
was the limit, so nothing is known about the server."""


@dataclass(frozen=True)
class Latency:
    """Percentiles of ``count`` samples; all zero if there are none."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    count: int


@dataclass(frozen=True)
class Timeline:
    """A level second by second, one value per second in each list.

    A second in which no chunk was due has 0 in place of its percentiles.
    """

    second_s: list[float]
    """Start of the second, from the start of the measurement."""
    streams: list[int]
    """Streams that spoke in that second."""
    p50_ms: list[float]
    p95_ms: list[float]
    p99_ms: list[float]
    lateness_p99_ms: list[float]


@dataclass(frozen=True)
class StageUse:
    """One stage of the ensemble over the hold, from the server's own counters."""

    model: str
    mean_batch: float
    queue_ms: float
    """Per request."""
    compute_ms: float
    """Per request: input, inference and output."""
    requests: int
    cpu_cores: float | None
    """CPU seconds of its process per second; ``None`` where they cannot be seen."""


@dataclass(frozen=True)
class Level:
    """What was seen while ``streams`` live streams were held."""

    streams: int
    hold_s: float
    final: bool
    """The long hold of the answer."""
    passes: bool
    valid: bool
    """Whether the generator kept its own times."""
    reasons: list[str]
    """Why it fails or is invalid, in words."""
    chunk_latency: Latency
    """Chunk due to its text."""
    final_latency: Latency | None
    """Last audio due to the final text; ``None`` if no stream ended within the hold."""
    lateness: Latency
    """How late the generator itself was."""
    late_share: float
    keep_up_share_min: float
    """Audio answered per wall time, of the slowest stream."""
    failures: dict[str, int]
    """Streams that failed, by kind."""
    transcripts_compared: int
    transcripts_different: int
    wer: float | None
    """Word error rate under load; ``None`` where nobody knows what was said."""
    timeline: Timeline
    stages: list[StageUse]
    """Empty if the server's metrics were not to be had."""
    server_cpu_cores: float | None
    generator_cpu_cores: float
    gpu_utilization: float | None
    """From 0 to 1, mean over the GPUs."""
    gpu_memory_bytes: int | None


@dataclass(frozen=True)
class Rule:
    """What a level has to keep to pass, and for how long."""

    p99_ms: float
    hold_s: float
    keep_up_share: float
    late_ms: float
    late_share: float


@dataclass(frozen=True)
class Conditions:
    """What the figures hold for."""

    checkpoint: str
    runtime: str
    precision: str
    chunk_ms: int
    parameters: int | None
    cpu_model: str
    cpu_cores: int
    gpu_model: str | None
    gpu_count: int
    server_location: Literal["same machine", "remote"]
    generator_processes: int
    versions: dict[str, str]
    speech: str
    command: str
    started_at: str
    """ISO 8601, UTC."""


@dataclass(frozen=True)
class CapacityResult:
    """The document."""

    schema: int
    kind: Literal["capacity", "level"]
    verdict: Verdict
    streams: int
    """The answer; 0 if no count passed."""
    streams_per_gpu: float | None
    streams_per_core: float | None
    """Without a GPU: streams per core that the server may use. A generator on the same machine
    takes its share of them; each level says how much of both was used."""
    limit: str
    """Why not more, in words."""
    rule: Rule
    levels: list[Level]
    """In the order in which they were held."""
    conditions: Conditions
    baseline: Comparison | None = None
    """Another recognizer on the same audio and cores, where one was asked for."""

    @classmethod
    def from_json(cls, path: Path) -> CapacityResult:
        """Read the document at ``path``.

        Raises:
            OSError: there is none.
            ValueError: it is not such a document, or of another schema.
        """
        try:
            result = _DOCUMENT.validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path} is not the result of a capacity run: {error}") from error
        if result.schema != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA} in {path}, got {result.schema}")
        return result

    def write(self, path: Path) -> None:
        """Write to ``path``, whole or not at all."""
        write_whole(path, _DOCUMENT.dump_json(self, indent=2).decode() + "\n")


_DOCUMENT = TypeAdapter(CapacityResult)
