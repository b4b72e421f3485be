"""Compare Earshot and PocketSphinx on the same recordings.

The baseline command runs this on a server of its own; a capacity run may use the server that it has
just measured, with the streams per core that it has found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np
import psutil
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from loadtest.audio.recordings import (
    INT16_PEAK,
    SAMPLE_RATE_HZ,
    Audio,
    LabelledRecording,
    find_recordings,
)
from loadtest.audio.word_errors import WordErrors, count_errors, total
from loadtest.compare.pocketsphinx import Decoded, decode, require_installed
from loadtest.compare.saturate import saturate
from loadtest.options import LoadOptions, console
from loadtest.result.baseline import (
    ALL_SETS,
    BASELINE_SCHEMA,
    BaselineResult,
    RecognizerComparison,
    RecognizerFigures,
    SpeechSet,
)
from loadtest.result.document import CapacityResult
from loadtest.result.machine import cpu_model, now, this_command
from loadtest.service.connection import connect
from loadtest.service.server import ServerProcess, serving

SATURATING_STREAMS = 64
SATURATING_S = 20.0
SATURATED = (
    f"CPU time of all its processes per chunk, {SATURATING_STREAMS} streams sending without pause"
)
HELD = "live streams held in time, over all cores of the machine"
ON_GPUS = "not counted: the network ran on GPUs"
DECODED = "audio per CPU time of one thread, whole recordings, as fast as possible"
ELSEWHERE = "the server was elsewhere"


@dataclass(frozen=True)
class StreamsPerCore:
    """Streams per core of the service, and how they were measured."""

    value: float | None
    """`None` if the CPU time of the server cannot be seen."""
    method: str


def measure(recordings: Sequence[LabelledRecording], options: LoadOptions) -> BaselineResult:
    """Compare on `recordings`, with the server at the URL or one started on the repository.

    Raises:
        NotInstalled: PocketSphinx is not installed.
        ServerEnded: The server did not become ready.
        StreamsFailed: A stream failed while the server was saturated.
        earshot.EarshotError: The server cannot be reached, or a stream failed.
    """
    require_installed()
    started_at = now()
    if options.repository is None:
        software = _software(options)
        per_core = StreamsPerCore(None, ELSEWHERE)
        comparison = compare_with_pocketsphinx(options, recordings, per_core)
    else:
        with serving(options.repository) as server:
            served = replace(options, url=server.url)
            per_core = _saturated(server, recordings, options.model)
            software = _software(served)
            comparison = compare_with_pocketsphinx(served, recordings, per_core)
    packages = ("pocketsphinx", "onnxruntime", "jiwer", "whisper-normalizer")
    return BaselineResult(
        schema=BASELINE_SCHEMA,
        kind="baseline",
        comparison=comparison,
        cpu_model=cpu_model(),
        cpu_cores=psutil.cpu_count() or 1,
        versions={"server": software} | {package: version(package) for package in packages},
        command=this_command(),
        started_at=started_at,
    )


def with_baseline(result: CapacityResult, options: LoadOptions) -> CapacityResult:
    """Return `result` with a comparison with PocketSphinx, on the recordings of its run.

    The server is the one that was measured, and must be idle. Raises as `find_recordings` and
    `compare_with_pocketsphinx`.
    """
    method = HELD if result.conditions.gpu_model is None else ON_GPUS
    per_core = StreamsPerCore(result.streams_per_core, method)
    recordings = find_recordings(options.speech)
    return replace(result, baseline=compare_with_pocketsphinx(options, recordings, per_core))


def compare_with_pocketsphinx(
    options: LoadOptions, recordings: Sequence[LabelledRecording], per_core: StreamsPerCore
) -> RecognizerComparison:
    """Transcribe `recordings` with the idle server and with PocketSphinx.

    Args:
        options: URL and model of the server.
        recordings: Recordings with transcripts.
        per_core: Streams per core of the server.

    Raises:
        NotInstalled: PocketSphinx is not installed.
        earshot.EarshotError: The server cannot be reached, or a stream failed.
    """
    require_installed()
    with _progress() as bar:
        task = bar.add_task("Earshot", total=len(recordings))
        name, texts = _transcribe(
            options, recordings, lambda: bar.update(task, advance=1, refresh=True)
        )
        other = bar.add_task("PocketSphinx", total=len(recordings))
        theirs = decode(recordings, lambda: bar.update(other, advance=1, refresh=True))
    rates = word_error_rates(recordings, texts)
    ours = RecognizerFigures(name, rates, per_core.value, per_core.method)
    return RecognizerComparison(_sets(recordings), [ours, _as_figures(theirs, recordings)])


def word_counts(recordings: Sequence[LabelledRecording]) -> dict[str, int]:
    """Return the number of words in the transcripts of each set and of `all`, normalized."""
    empty = [""] * len(recordings)
    return {name: each.words for name, each in _errors_by_set(recordings, empty).items()}


def word_error_rates(
    recordings: Sequence[LabelledRecording], texts: Sequence[str]
) -> dict[str, float]:
    """Return the word error rate of `texts`, one for each recording, in each set and in `all`."""
    return {name: round(each.rate, 4) for name, each in _errors_by_set(recordings, texts).items()}


def _errors_by_set(
    recordings: Sequence[LabelledRecording], texts: Sequence[str]
) -> dict[str, WordErrors]:
    counts = count_errors([recording.transcript for recording in recordings], texts)
    members: dict[str, list[WordErrors]] = {}
    for recording, each in zip(recordings, counts, strict=True):
        for name in (recording.speech_set, ALL_SETS):
            members.setdefault(name, []).append(each)
    return {name: total(listed) for name, listed in members.items()}


def _software(options: LoadOptions) -> str:
    with connect(options.url, options.model) as client:
        return client.info.server


def _saturated(
    server: ServerProcess, recordings: Sequence[LabelledRecording], model: str | None
) -> StreamsPerCore:
    with console.status(f"saturating the server for {SATURATING_S:.0f} s"):
        speech = _joined(recordings)
        run = asyncio.run(saturate(server, speech, SATURATING_STREAMS, SATURATING_S, model))
    return StreamsPerCore(round(run.streams_per_core, 1), SATURATED)


def _joined(recordings: Sequence[LabelledRecording]) -> Audio:
    samples = np.concatenate([recording.read() for recording in recordings])
    return np.divide(samples, INT16_PEAK, dtype=np.float32)


def _transcribe(
    options: LoadOptions, recordings: Sequence[LabelledRecording], advance: Callable[[], None]
) -> tuple[str, list[str]]:
    """Return the name of the recognizer and its text for each recording."""
    texts: list[str] = []
    with connect(options.url, options.model) as client:
        for recording in recordings:
            with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
                stream.send(recording.read())
                texts.append(stream.finish().text)
            advance()
        info = client.info
    served = f"{info.runtime} {info.precision}, {info.chunk_ms} ms chunks"
    return f"Earshot: {info.model}, {served}", texts


def _as_figures(decoded: Decoded, recordings: Sequence[LabelledRecording]) -> RecognizerFigures:
    rates = word_error_rates(recordings, decoded.texts)
    return RecognizerFigures(decoded.name, rates, round(decoded.streams_per_core, 2), DECODED)


def _sets(recordings: Sequence[LabelledRecording]) -> list[SpeechSet]:
    words = word_counts(recordings)
    sets: list[SpeechSet] = []
    for name in dict.fromkeys(recording.speech_set for recording in recordings):
        members = [recording for recording in recordings if recording.speech_set == name]
        audio_s = sum(len(member.read()) for member in members) / SAMPLE_RATE_HZ
        sets.append(SpeechSet(name, len(members), round(audio_s, 1), words[name]))
    return sets


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
