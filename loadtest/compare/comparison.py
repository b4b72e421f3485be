"""Earshot and PocketSphinx hear the same recordings; one comparison comes out.

The baseline command runs it on a server of its own; a capacity run may run it on the server that it
has just measured, with the streams per core that it found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import earshot
import numpy as np
import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from loadtest.comparison import (
    BASELINE_SCHEMA,
    BaselineResult,
    Comparison,
    Recognizer,
    SpeechSet,
)
from loadtest.machine import cpu_model, now, this_command
from loadtest.pressing import press
from loadtest.recordings import INT16_PEAK, Recording, find_recordings
from loadtest.result import CapacityResult
from loadtest.server_process import ServerProcess, serving
from loadtest.speech import SAMPLE_RATE_HZ, Samples
from loadtest.sphinx import Decoded, decode, require_installed
from loadtest.word_errors import word_counts, word_error_rates

PRESSING_STREAMS = 64
PRESSING_S = 20.0
SATURATED = (
    f"CPU time of all its processes per chunk, {PRESSING_STREAMS} streams sending without pause"
)
HELD = "live streams held in time, over all cores of the machine"
ON_GPUS = "not counted: the network ran on GPUs"
DECODED = "audio per CPU time of one thread, whole recordings, as fast as it goes"

_console = Console(stderr=True)


def measure(
    recordings: Sequence[Recording], repository: Path, url: str | None, model: str | None = None
) -> BaselineResult:
    """Compare on ``recordings``, with the server at ``url`` or one of its own on ``repository``.

    Args:
        model: which recognizer of the server; see `earshot.connect`.

    Raises:
        NotInstalled: PocketSphinx is an extra.
        ServerEnded: the server did not become ready.
        StreamsFailed: of those that were to press it.
        earshot.EarshotError: the server is not there, or a stream failed.
    """
    require_installed()
    started_at = now()
    if url is not None:
        software = _software(url, model)
        comparison = compare_with_pocketsphinx(
            url, recordings, None, "the server was elsewhere", model
        )
    else:
        with serving(repository) as server:
            per_core = _saturated_streams_per_core(server, recordings, model)
            software = _software(server.url, model)
            comparison = compare_with_pocketsphinx(
                server.url, recordings, per_core, SATURATED, model
            )
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


def with_baseline(
    result: CapacityResult, url: str, folder: Path, model: str | None
) -> CapacityResult:
    """``result`` with PocketSphinx beside it, on the recordings below ``folder``.

    The server at ``url`` is the one that was measured, and idle by now. Raises as `find_recordings`
    and `compare_with_pocketsphinx`.
    """
    per_core = result.streams_per_core
    measured = HELD if result.conditions.gpu_model is None else ON_GPUS
    recordings = find_recordings(folder)
    baseline = compare_with_pocketsphinx(url, recordings, per_core, measured, model)
    return replace(result, baseline=baseline)


def compare_with_pocketsphinx(
    url: str,
    recordings: Sequence[Recording],
    streams_per_core: float | None,
    streams_per_core_is: str,
    model: str | None = None,
) -> Comparison:
    """Transcribe ``recordings`` with the idle server at ``url`` and with PocketSphinx.

    Args:
        streams_per_core: what is known of the server; ``None`` if nothing is.
        streams_per_core_is: how that was measured.
        model: which recognizer of the server; see `earshot.connect`.

    Raises:
        NotInstalled: PocketSphinx is an extra.
        earshot.EarshotError: the server is not there, or a stream failed.
    """
    require_installed()
    with _progress() as bar:
        task = bar.add_task("Earshot", total=len(recordings))
        name, heard = _transcribe(
            url, model, recordings, lambda: bar.update(task, advance=1, refresh=True)
        )
        other = bar.add_task("PocketSphinx", total=len(recordings))
        theirs = decode(recordings, lambda: bar.update(other, advance=1, refresh=True))
    ours = Recognizer(
        name, word_error_rates(recordings, heard), streams_per_core, streams_per_core_is
    )
    return Comparison(_sets(recordings), [ours, _as_recognizer(theirs, recordings)])


def _software(url: str, model: str | None) -> str:
    with earshot.connect(url, model=model) as client:
        return client.info.server


def _saturated_streams_per_core(
    server: ServerProcess, recordings: Sequence[Recording], model: str | None
) -> float:
    with _console.status(f"pressing the server for {PRESSING_S:.0f} s"):
        speech = _joined(recordings)
        pressed = asyncio.run(press(server, speech, PRESSING_STREAMS, PRESSING_S, model))
        return round(pressed.streams_per_core, 1)


def _joined(recordings: Sequence[Recording]) -> Samples:
    samples = np.concatenate([recording.read() for recording in recordings])
    return np.divide(samples, INT16_PEAK, dtype=np.float32)


def _transcribe(
    url: str, model: str | None, recordings: Sequence[Recording], advance: Callable[[], None]
) -> tuple[str, list[str]]:
    """What is served there, and what it hears."""
    heard: list[str] = []
    with earshot.connect(url, model=model) as client:
        for recording in recordings:
            with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
                stream.send(recording.read())
                heard.append(stream.finish().text)
            advance()
        info = client.info
    serving_what = f"{info.runtime} {info.precision}, {info.chunk_ms} ms chunks"
    return f"Earshot: {info.model}, {serving_what}", heard


def _as_recognizer(decoded: Decoded, recordings: Sequence[Recording]) -> Recognizer:
    rates = word_error_rates(recordings, decoded.heard)
    return Recognizer(decoded.name, rates, round(decoded.streams_per_core, 2), DECODED)


def _sets(recordings: Sequence[Recording]) -> list[SpeechSet]:
    words = word_counts(recordings)
    sets: list[SpeechSet] = []
    for name in dict.fromkeys(recording.speech_set for recording in recordings):
        members = [recording for recording in recordings if recording.speech_set == name]
        audio_s = sum(len(member.read()) for member in members) / SAMPLE_RATE_HZ
        sets.append(SpeechSet(name, len(members), round(audio_s, 1), words[name]))
    return sets


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=_console, transient=True)
