"""The JSON document of a capacity search, or of one level that was held.

The commands write it; the report, the planner and pipelines read it. Times are in milliseconds
unless the name says otherwise. Latencies are percentiles of raw samples, never of rounded ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from loadtest.result.baseline import RecognizerComparison
from loadtest.result.files import write_whole
from loadtest.result.invalid import reason

SCHEMA = 1

Verdict = Literal["pass", "fail", "invalid"]
"""Verdict on a level or a search. For a search, `pass` means that a number of streams was found and
sustained; `invalid` means that the load generator was the limit, so nothing is known about the
server, or that the search did not end."""
UNFINISHED = "the search did not end"
"""Limit in the document that a search updates while it runs; its verdict is `invalid`."""
_EXIT_CODES: dict[Verdict, int] = {"pass": 0, "fail": 1, "invalid": 3}


def exit_code(verdict: Verdict) -> int:
    """Return 0 for pass, 1 for fail, 3 for invalid; 2 is reserved for usage errors."""
    return _EXIT_CODES[verdict]


@dataclass(frozen=True)
class Latency:
    """Percentiles of `count` samples; all zero if there are none."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    count: int


@dataclass(frozen=True)
class Timeline:
    """A level second by second, one value per second in each list.

    If no chunk was due in a second, its percentiles are 0.
    """

    second_s: list[float]
    """Start of the second, from the start of the measurement."""
    streams: list[int]
    """Streams with a chunk due in that second."""
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
    """Time in the queue per request."""
    compute_ms: float
    """Time per request for input, inference and output."""
    requests: int
    cpu_cores: float | None
    """CPU seconds of its processes per second; `None` if unknown."""


@dataclass(frozen=True)
class Level:
    """Measurements taken while `streams` live streams were held."""

    streams: int
    hold_s: float
    final: bool
    """`True` for the final, long hold of a search."""
    passes: bool
    valid: bool
    """`False` if the load generator was late, so that the level says nothing about the server."""
    reasons: list[str]
    """Reasons why the level fails or is invalid."""
    chunk_latency: Latency
    """Time from when a chunk is due to its text."""
    final_latency: Latency | None
    """Time from when the last audio is due to the final text; `None` if no stream ended within the
    hold."""
    lateness: Latency
    """Lateness of the load generator's own sends."""
    late_share: float
    keep_up_share_min: float
    """Audio answered per elapsed time, of the slowest stream."""
    failures: dict[str, int]
    """Number of failed streams, by kind."""
    transcripts_compared: int
    transcripts_different: int
    wer: float | None
    """Word error rate under load; `None` if the recordings have no transcripts."""
    timeline: Timeline
    stages: list[StageUse]
    """Empty if the server's metrics could not be read."""
    server_cpu_cores: float | None
    generator_cpu_cores: float
    gpu_utilization: float | None
    """Mean utilization of the GPUs, from 0 to 1."""
    gpu_memory_bytes: int | None
    unanswered_chunks: int = 0
    """Chunks without an answer; the latencies include the time that they waited, at least ten
    seconds."""
    largest_change: float | None = None
    """Largest share of the tokens of a stream that differ from its reference, ignoring changes of
    one or two tokens; `None` in documents written before this was recorded."""

    @property
    def verdict(self) -> Verdict:
        """Return the verdict on the level; `invalid` prevails over pass and fail."""
        if not self.valid:
            return "invalid"
        return "pass" if self.passes else "fail"


@dataclass(frozen=True)
class Rule:
    """Limits that a level must meet to pass, and for how long."""

    p99_ms: float
    hold_s: float
    keep_up_share: float
    late_ms: float
    late_share: float
    allowed_change: float | None = None
    """Share of a stream's tokens that may differ from the reference; `None` in documents written
    before this was recorded, for the default of the precision."""


_EXACT = ("fp32",)
_CHANGE_ELSE = 0.25


def default_allowed_change(precision: str) -> float:
    """Return the share of a stream's tokens that may differ from the reference by default.

    In float32 the tokens of a stream must not depend on the other streams in the batch.
    """
    return 0.0 if precision in _EXACT else _CHANGE_ELSE


@dataclass(frozen=True)
class Conditions:
    """Model, machine, versions and command for which the figures hold."""

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
    """The document of a capacity search or of one level."""

    schema: int
    kind: Literal["capacity", "level"]
    verdict: Verdict
    streams: int
    """The capacity, or the streams of the level; 0 if none passed."""
    streams_per_gpu: float | None
    streams_per_core: float | None
    """Streams per core that the server may use, if there is no GPU. A load generator on the same
    machine takes its share of the cores; each level records how much both used."""
    limit: str
    """Reason why not more streams were sustained."""
    rule: Rule
    levels: list[Level]
    """Levels in the order in which they were held."""
    conditions: Conditions
    baseline: RecognizerComparison | None = None
    """Another recognizer on the same audio and cores, if one was requested."""

    @property
    def unfinished(self) -> bool:
        """Return `True` if the search ended before it had a result."""
        return self.limit.startswith(UNFINISHED)

    @property
    def unusual_allowed_change(self) -> float | None:
        """Return the share of tokens that may differ; `None` if it is the precision's default."""
        allowed = self.rule.allowed_change
        return None if allowed == default_allowed_change(self.conditions.precision) else allowed

    @property
    def shown_level(self) -> Level:
        """Return the level to show: the final hold, else the best that passed, else the last.

        Raises:
            IndexError: No level was held.
        """
        final = [level for level in self.levels if level.final]
        passing = [level for level in self.levels if level.verdict == "pass"]
        best = sorted(passing, key=lambda level: level.streams)
        return (final or best or self.levels)[-1]

    @classmethod
    def from_json(cls, path: Path) -> CapacityResult:
        """Read the document at `path`.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is not such a document, or has another schema.
        """
        try:
            result = _DOCUMENT.validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(
                f"{path} is not the result of a capacity run: {reason(error)}"
            ) from error
        if result.schema != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA} in {path}, got {result.schema}")
        return result

    def write(self, path: Path) -> None:
        """Write the document to `path` atomically."""
        write_whole(path, _DOCUMENT.dump_json(self, indent=2).decode() + "\n")


_DOCUMENT = TypeAdapter(CapacityResult)
