"""Remove a server from under live streams, and compare their text with undisturbed streams."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import earshot

from loadtest.audio.recordings import SAMPLE_RATE_HZ, load_clips
from loadtest.audio.scripts import Script, write_scripts
from loadtest.capacity.conditions import conditions
from loadtest.options import LoadOptions
from loadtest.resuming.document import SCHEMA, Gap, ResumingResult
from loadtest.resuming.streams import PATIENT, Ended, play
from loadtest.resuming.words import Words, compare
from loadtest.service.connection import connect_async

_AT_ONCE = 8


class CommandFailed(Exception):
    """The command that should remove a server failed."""


@dataclass(frozen=True)
class _Played:
    """The outcome of all streams."""

    undisturbed: list[earshot.Transcript]
    """Undisturbed transcripts of the streams that have ended, in the same order."""
    ended: list[Ended]
    failures: Counter[str]
    info: earshot.ServerInfo


def measure(options: LoadOptions, streams: int, command: Sequence[str]) -> ResumingResult:
    """Run `command` in the middle of live streams.

    Raises:
        EarshotError: The server cannot be reached, or fails without the command.
        CommandFailed: The command could not be run, or has failed.
        ValueError: There are no recordings.
    """
    clips = load_clips(options.speech)
    scripts = write_scripts(clips, options.min_stream_s)
    played = asyncio.run(_play(options, scripts, streams, command))
    resumptions = [cut for stream in played.ended for cut in stream.resumptions]
    words = compare(played.undisturbed, [stream.transcript for stream in played.ended])
    reasons = list(_reasons(played, len(resumptions), words))
    return ResumingResult(
        schema=SCHEMA,
        kind="resuming",
        passes=not reasons,
        reasons=reasons,
        command=list(command),
        streams=streams,
        failures=dict(played.failures),
        carried_on=len(resumptions),
        gap=_gap(resumptions),
        words=words.undisturbed,
        missing_words=words.missing,
        changed_words=words.changed,
        conditions=conditions(played.info, options, clips, 0),
    )


async def _play(
    options: LoadOptions, scripts: Sequence[Script], streams: int, command: Sequence[str]
) -> _Played:
    async with connect_async(options.url, options.model, PATIENT) as client:
        references = await _transcribe(client, scripts)
        numbers = [index % len(scripts) for index in range(streams)]
        playing = [asyncio.create_task(_attempt(client, scripts[number])) for number in numbers]
        try:
            await asyncio.sleep(_middle_s(scripts))
            await _run(command)
            outcomes = await asyncio.gather(*playing)
        finally:
            for task in playing:
                task.cancel()
        pairs = list(zip(numbers, outcomes, strict=True))
        return _Played(
            [references[number] for number, outcome in pairs if isinstance(outcome, Ended)],
            [outcome for outcome in outcomes if isinstance(outcome, Ended)],
            Counter(outcome for outcome in outcomes if isinstance(outcome, str)),
            client.info,
        )


def _middle_s(scripts: Sequence[Script]) -> float:
    return min(len(script.samples) for script in scripts) / SAMPLE_RATE_HZ / 2


async def _transcribe(
    client: earshot.AsyncClient, scripts: Sequence[Script]
) -> list[earshot.Transcript]:
    """Return the transcript of each script, sent as fast as it is answered."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def transcribe(script: Script) -> earshot.Transcript:
        async with gate, client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
            await stream.send(script.samples)
            return await stream.finish()

    return await asyncio.gather(*(transcribe(script) for script in scripts))


async def _attempt(client: earshot.AsyncClient, script: Script) -> Ended | str:
    """Play a script; return the kind of error if the stream fails."""
    try:
        return await play(client, script.samples)
    except earshot.EarshotError as error:
        return type(error).__name__


async def _run(command: Sequence[str]) -> None:
    try:
        process = await asyncio.create_subprocess_exec(*command)
    except OSError as error:
        raise CommandFailed(f"{command[0]} cannot be run: {error.strerror}") from error
    code = await process.wait()
    if code:
        raise CommandFailed(f"expected that {command[0]} ends with 0, got {code}")


def _gap(resumptions: Sequence[earshot.Resumption]) -> Gap | None:
    gaps_ms = sorted(cut.gap_ms for cut in resumptions)
    return Gap(gaps_ms[len(gaps_ms) // 2], gaps_ms[-1]) if gaps_ms else None


def _reasons(played: _Played, carried_on: int, words: Words) -> Iterator[str]:
    failed = played.failures.total()
    if failed:
        yield f"{failed} streams failed ({', '.join(sorted(played.failures))})"
    if not carried_on:
        yield "no stream has lost its server: the command has taken none away that had any"
    yield from words.faults(carried_on)
