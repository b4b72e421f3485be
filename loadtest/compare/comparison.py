"""Compare Earshot and other recognizers on the same recordings.

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
from loadtest.compare.decode import Decoded, decode
from loadtest.compare.recognizers import RECOGNIZERS, require_installed, versions
from loadtest.compare.saturate import saturate
from loadtest.options import LoadOptions, OtherRecognizer, console
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
DECODED = "audio per CPU time of one process on one core, whole recordings, as fast as possible"
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
        NotInstalled: A recognizer is not installed.
        DecodingFailed: Another recognizer failed.
        ServerEnded: The server did not become ready.
        StreamsFailed: A stream failed while the server was saturated.
        earshot.EarshotError: The server cannot be reached, or a stream failed.
    """
    others = list(OtherRecognizer)
    require_installed(others)
    started_at = now()
    if options.repository is None:
        software = _software(options)
        per_core = StreamsPerCore(None, ELSEWHERE)
        comparison = compare(options, recordings, per_core, others)
    else:
        with serving(options.repository) as server:
            served = replace(options, url=server.url)
            per_core = _saturated(server, recordings, options.model)
            software = _software(served)
            comparison = compare(served, recordings, per_core, others)
    packages = ("onnxruntime", "jiwer", "whisper-normalizer")
    used = versions(others) | {package: version(package) for package in packages}
    return BaselineResult(
        schema=BASELINE_SCHEMA,
        kind="baseline",
        comparison=comparison,
        cpu_model=cpu_model(),
        cpu_cores=psutil.cpu_count() or 1,
        versions={"server": software} | used,
        command=this_command(),
        started_at=started_at,
    )


def with_baseline(
    result: CapacityResult, options: LoadOptions, others: Sequence[OtherRecognizer]
) -> CapacityResult:
    """Return `result` with a comparison with `others`, on the recordings of its run.

    The server is the one that was measured, and must be idle. Raises as `find_recordings` and
    `compare`.
    """
    method = HELD if result.conditions.gpu_model is None else ON_GPUS
    per_core = StreamsPerCore(result.streams_per_core, method)
    recordings = find_recordings(options.speech)
    return replace(result, baseline=compare(options, recordings, per_core, others))


def compare(
    options: LoadOptions,
    recordings: Sequence[LabelledRecording],
    per_core: StreamsPerCore,
    others: Sequence[OtherRecognizer],
) -> RecognizerComparison:
    """Transcribe `recordings` with the idle server, then with each other recognizer.

    Args:
        options: URL and model of the server.
        recordings: Recordings with transcripts.
        per_core: Streams per core of the server.
        others: Recognizers to compare with.

    Raises:
        DecodingFailed: Another recognizer failed.
        earshot.EarshotError: The server cannot be reached, or a stream failed.
    """
    with _progress() as bar:
        name, texts = _transcribe(options, recordings, _advancing(bar, "Earshot", len(recordings)))
        decoded = [
            decode(each, recordings, _advancing(bar, RECOGNIZERS[each].TITLE, len(recordings)))
            for each in others
        ]
    rates = word_error_rates(recordings, texts)
    ours = RecognizerFigures(name, rates, per_core.value, per_core.method)
    theirs = [_as_figures(each, recordings) for each in decoded]
    return RecognizerComparison(_sets(recordings), [ours, *theirs])


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


def _advancing(bar: Progress, title: str, total: int) -> Callable[[], None]:
    """Add a bar for `total` recordings, and return a function that advances it by one."""
    task = bar.add_task(title, total=total)
    return lambda: bar.update(task, advance=1, refresh=True)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
