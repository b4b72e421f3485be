"""Summarize a GPU report in one table of all results with their limits, as JSON and HTML.

The limit is read from the smallest level that was not sustained, or else from the largest that was
held. It is the engine that the recognizer's processes share, these processes (share of the time in
which they process a batch), the cores, or the load generator.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.gpu.plan import FILES, INSTANCES, OWN_INSTANCES, OWN_SUFFIX
from loadtest.report.templates import load_template
from loadtest.result.document import CapacityResult, Level, StageUse
from loadtest.service.monitor import ENGINE_SUFFIX

RECOGNIZER = "recognizer"
_ENGINE_FULL = 0.8
"""If the engine is busier than this, processes wait for it most of the time."""
_OTHERS = ("machine", "environment", "engine_tests", "tokens_*", f"*_{FILES}_*")
"""Results that are shown without evaluation."""


@dataclass(frozen=True)
class Row:
    """One result with the resources that it used; shares are from 0 to 1."""

    name: str
    model: str
    chunk_ms: int
    precision: str
    verdict: str
    streams: int
    transcripts: int
    """Streams of the held level whose transcripts were compared."""
    largest_change: float | None
    """Largest share of the tokens of such a stream that differ from the reference."""
    limit_seen: str
    """Limit stated in the result itself."""
    level_streams: int
    """Streams of the level to which the figures below belong."""
    chunk_p99_ms: float
    engine_busy: float | None
    """Share of the time in which the engine shared by the recognizer's processes computes a
    batch."""
    engine_batch: float | None
    recognizer_busy: float | None
    """Share of the time in which a recognizer process has a batch, as mean over the processes. It
    is an upper bound, and includes the time of waiting for the engine."""
    recognizer_batch: float | None
    recognizer_ms: float | None
    """Time of a batch in the service."""
    engine_ms: float | None
    """Time of a batch of at least that size in the engine alone."""
    recognizer_cores: float | None
    triton_cores: float | None
    server_cores: float | None
    generator_cores: float
    cores: int
    limit: str
    """The resource of which the largest share was used; see `limit_of`."""


def write_summary(results: Path, instances: int, own_engines: bool = False) -> None:
    """Write `summary.json` and `summary.html` beside the results, if there are any.

    Args:
        results: Folder with the results.
        instances: Recognizer processes in the results of one kind; others have the default number.
        own_engines: True if that kind is the one whose processes each have their own engine.
    """
    paths = sorted([*results.glob("capacity_*.json"), *results.glob("hold_*.json")])
    usual = {False: INSTANCES, True: OWN_INSTANCES, own_engines: instances}
    rows = [row_of(path, usual[OWN_SUFFIX in path.stem]) for path in paths]
    others = {
        path.stem: json.loads(path.read_text())
        for name in _OTHERS
        for path in sorted(results.glob(f"{name}.json"))
    }
    if not rows and not others:
        return
    document = {"results": [asdict(row) for row in rows], **others}
    (results / "summary.json").write_text(json.dumps(document, indent=2) + "\n")
    template = load_template(Path(__file__).with_name("summary.html.j2"))
    page = template.render(rows=rows, others=others)
    (results / "summary.html").write_text(page, encoding="utf-8")


def row_of(path: Path, instances: int) -> Row:
    """Return the row of the result at `path`, with the engine times beside it."""
    result = CapacityResult.from_json(path)
    level = limiting_level(result)
    stages = {stage.model: stage for stage in level.stages}
    recognizer, engine = stages.get(RECOGNIZER), stages.get(RECOGNIZER + ENGINE_SUFFIX)
    engine_busy, busy = busy_shares(level, instances)
    seen = sum(stage.cpu_cores or 0.0 for stage in level.stages)
    triton = None if level.server_cpu_cores is None else level.server_cpu_cores - seen
    return Row(
        name=path.stem,
        model=result.conditions.checkpoint,
        chunk_ms=result.conditions.chunk_ms,
        precision=result.conditions.precision,
        verdict=result.verdict,
        streams=result.streams,
        transcripts=result.shown_level.transcripts_compared,
        largest_change=result.shown_level.largest_change,
        limit_seen=result.limit,
        level_streams=level.streams,
        chunk_p99_ms=level.chunk_latency.p99_ms,
        engine_busy=engine_busy,
        engine_batch=engine and engine.mean_batch,
        recognizer_busy=busy,
        recognizer_batch=recognizer and recognizer.mean_batch,
        recognizer_ms=recognizer and recognizer.compute_ms,
        engine_ms=recognizer and _engine_ms(path, (engine or recognizer).mean_batch),
        recognizer_cores=recognizer and recognizer.cpu_cores,
        triton_cores=triton,
        server_cores=level.server_cpu_cores,
        generator_cores=level.generator_cpu_cores,
        cores=result.conditions.cpu_cores,
        limit=limit_in(result, instances),
    )


def limit_in(result: CapacityResult, instances: int) -> str:
    """Return in words the limit that a result of a recognizer with `instances` processes shows."""
    if result.unfinished:
        return "not known, the search did not end"
    level = limiting_level(result)
    return limit_of(level, *busy_shares(level, instances), result.conditions.cpu_cores)


def busy_shares(level: Level, instances: int) -> tuple[float | None, float | None]:
    """Return the busy shares of the engine and of the recognizer's processes, if there are any."""
    stages = {stage.model: stage for stage in level.stages}
    recognizer, engine = stages.get(RECOGNIZER), stages.get(RECOGNIZER + ENGINE_SUFFIX)
    return (
        engine and _busy(engine, level.hold_s, instances=1),
        recognizer and _busy(recognizer, level.hold_s, instances),
    )


def limiting_level(result: CapacityResult) -> Level:
    """Return the smallest level that was not sustained; if all were, the largest."""
    failed = [level for level in result.levels if not (level.passes and level.valid)]
    if failed:
        return min(failed, key=lambda level: level.streams)
    return max(result.levels, key=lambda level: level.streams)


def limit_of(level: Level, engine_busy: float | None, busy: float | None, cores: int) -> str:
    """Return the resource of which the largest share was used, in words.

    Processes that wait for their engine count as busy, so their share says nothing if the engine is
    busy most of the time.
    """
    if not level.valid:
        return "the load generator"
    used = (level.server_cpu_cores or 0.0) + level.generator_cpu_cores
    shares = {"the cores, shared with the generator": used / cores if cores else 0.0}
    if engine_busy is not None:
        shares["the engine"] = engine_busy
    if busy is not None and (engine_busy or 0.0) < _ENGINE_FULL:
        shares["the recognizer's processes"] = busy
    name, share = max(shares.items(), key=lambda item: item[1])
    return f"{name}: {share:.0%} in use"


def _busy(stage: StageUse, hold_s: float, instances: int) -> float:
    batches = stage.requests / max(1.0, stage.mean_batch)
    # Triton's mean is over requests, most of which are in large batches: it is too high if batches
    # differ.
    return min(1.0, batches * stage.compute_ms / 1000 / hold_s / instances)


def _engine_ms(path: Path, batch: float) -> float | None:
    """Return the engine's time for a batch of that size of the same model, if it was measured."""
    model = path.stem.removesuffix(".unfinished").partition("_")[2].removesuffix(OWN_SUFFIX)
    engine = path.with_name(f"engine_{model}.json")
    if not engine.exists():
        return None
    measured: Any = json.loads(engine.read_text())
    fitting = [entry["ms"] for entry in measured["batches"] if entry["batch"] >= batch]
    return fitting[0] if fitting else measured["batches"][-1]["ms"]
