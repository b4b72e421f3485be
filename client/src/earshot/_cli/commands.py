"""The command `earshot`. Results go to stdout, everything else to stderr.

Exit codes: 0 for success, 1 if some audio could not be transcribed, 2 for wrong usage or no usable
server, 130 after Ctrl-C.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from .._aio import connect_async
from .._files import display_name
from .._handshake import UNNAMED, Served
from .._stream_options import StreamOptions
from .._sync import connect
from .._timeouts import Timeouts
from .._version import __version__
from .batch import Batch, FileResult
from .inputs import (
    Channel,
    Channels,
    Encoding,
    Recording,
    SampleRate,
    SplitChannels,
    read_input,
)
from .microphone import Microphone, open_microphone
from .models import models
from .options import (
    EndpointMs,
    Model,
    ResumeS,
    exit_with,
    exiting_on_errors,
    print_result,
    stderr,
)
from .output import Format, Writer, report
from .server_options import ServerOptions, takes_server

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in help texts are not markup
)
app.add_typer(models)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"earshot {__version__}")
        raise typer.Exit


@app.callback()
def earshot(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_version,
            help="Print the version of the client and exit.",
        ),
    ] = False,
) -> None:
    """Transcribe audio with an Earshot server."""


@app.command()
@takes_server
def transcribe(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", show_default=False)],
    server: ServerOptions,
    model: Model = None,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="text, json (with word times), or the subtitles srt or vtt."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write to; for several audio files, a folder. stdout by default.",
        ),
    ] = None,
    streaming: Annotated[
        bool,
        typer.Option(
            "--streaming",
            help="Stream the files as live audio even if the server has an offline recognizer.",
        ),
    ] = False,
    endpoint_ms: EndpointMs = None,
    jobs: Annotated[int, typer.Option(min=1, help="Files to transcribe at the same time.")] = 4,
    resume_s: ResumeS = Timeouts.resume_s,
    encoding: Encoding = None,
    sample_rate_hz: SampleRate = None,
    channels: Channels = None,
    channel: Channel = None,
    split_channels: SplitChannels = False,
) -> None:
    """Transcribe audio files (wav, flac, ogg, mp3) of any length, in the given order; - is stdin.

    \b
    earshot transcribe talk.flac
    earshot transcribe --format srt -o talk.srt talk.flac
    earshot transcribe --json *.wav > transcripts.jsonl
    earshot transcribe --format vtt -o subtitles/ lectures/*.mp3
    earshot transcribe --split-channels call.wav
    earshot transcribe --endpoint-ms 500 call.wav
    arecord -d 10 -f S16_LE -r 16000 | earshot transcribe -

    If the server has an offline recognizer, long files are cut at pauses, and their pieces are
    recognized in parallel. If a piece fails for good, the rest is still written, and the exit code
    is 1. --endpoint-ms implies --streaming.
    """  # noqa: D301 (typer wants the character)
    chosen = _only_format(form, as_json)
    given = read_input(files, encoding, sample_rate_hz, channels, channel, split_channels)
    if chosen in (Format.srt, Format.vtt) and (len(files) > 1 or given.split) and output is None:
        raise typer.BadParameter(
            "subtitles of several files or channels need a folder: pass --output FOLDER"
        )
    writer = Writer(chosen, output, files, split=given.split)
    _check_targets(writer, files)

    arguments = server.arguments(resume_s=resume_s)
    options = StreamOptions(endpoint_ms)

    async def run() -> int:
        failed = 0
        async with connect_async(server.urls, model=model, **arguments) as client:
            batch = Batch(client, jobs, stderr, given, streaming=streaming, options=options)
            async with aclosing(batch.results(files)) as results:
                async for result in results:
                    failed += not _write_result(result, writer)
        return failed

    with exiting_on_errors():
        failed = asyncio.run(run())
    if failed:
        raise typer.Exit(1)


def _only_format(form: Format | None, as_json: bool) -> Format:
    if as_json and form not in (None, Format.json):
        raise typer.BadParameter(
            f"--json and --format {form.value} contradict each other: pass one"
        )
    return Format.json if as_json else form or Format.text


def _check_targets(writer: Writer, files: list[Path]) -> None:
    """Refuse to write one transcript over another, or over the audio.

    Files of the same name in different folders would have the same target.
    """
    recordings = map(Recording, dict.fromkeys(files))
    targets = [path for path in map(writer.path, recordings) if path is not None]
    for target in targets:
        if targets.count(target) > 1:
            raise typer.BadParameter(
                f"several transcripts would be written to {target}: use different folders"
            )
        if target.resolve() in {file.resolve() for file in files}:
            raise typer.BadParameter(
                f"{target} is the audio itself: pass another file with --output"
            )
        _try_to_write(target)


def _try_to_write(path: Path) -> None:
    """Exit if a file cannot be written, before the work whose result would be lost."""
    existed = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        _exit_unwritten(path, error)


@app.command()
@takes_server
def mic(
    server: ServerOptions,
    model: Model = None,
    endpoint_ms: EndpointMs = None,
    resume_s: ResumeS = Timeouts.resume_s,
) -> None:
    """Transcribe the microphone until Ctrl-C (needs './client[mic]' of the checkout)."""
    with (
        exiting_on_errors(),
        connect(server.urls, model=model, **server.arguments(resume_s=resume_s)) as client,
        open_microphone() as microphone,
    ):
        _stop_on_ctrl_c(microphone)
        for result in client.stream_from(
            microphone,
            sample_rate_hz=microphone.sample_rate_hz,
            channels=microphone.channels,
            options=StreamOptions(endpoint_ms),
        ):
            if endpoint_ms is None:
                print_result(result.text)
            for utterance in result.utterances:
                print_result(f"{utterance.text}\n")
    if endpoint_ms is None:
        print_result("\n")
    if microphone.overflows:
        stderr.print(
            f"earshot: the machine was too slow {microphone.overflows} times, and audio was lost"
        )


@app.command()
@takes_server
def info(
    server: ServerOptions,
    model: Model = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print the parameters of the server's recognizer."""
    with (
        exiting_on_errors(),
        connect(server.urls, model=model, **server.arguments()) as client,
    ):
        answer = {**_describe(client.served), "ready": client.is_ready()}
    if as_json:
        typer.echo(json.dumps(answer))
        return
    width = max(map(len, answer))
    for name, value in answer.items():
        typer.echo(f"{name:<{width}}  {value}")


def _describe(served: Served) -> dict[str, Any]:
    parameters = dataclasses.asdict(served.streaming or served.for_files())
    parameters["name"] = parameters["name"] or UNNAMED
    parameters["streaming"] = served.streaming is not None
    parameters["offline"] = served.offline is not None
    # Most recognizers have neither.
    if not parameters.get("adapter"):
        parameters.pop("adapter", None)
    heads = served.streaming.heads if served.streaming else ()
    parameters.pop("heads", None)
    if heads:
        parameters["heads"] = {head.name: list(head.labels) for head in heads}
    if served.offline:
        parameters["buckets_ms"] = list(served.offline.buckets_ms)
    return parameters


def _stop_on_ctrl_c(microphone: Microphone) -> None:
    """Let Ctrl-C stop the microphone and print the last words; a second Ctrl-C interrupts."""

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        microphone.stop()

    signal.signal(signal.SIGINT, stop)


def _write_result(result: FileResult, writer: Writer) -> bool:
    """Write or print a transcript; return False if it is missing or has failed spans."""
    name = result.recording.label
    transcript = result.transcript
    if transcript is None:
        _print_error(result)
        return False
    for warning in transcript.warnings:
        stderr.print(f"earshot: {name}: {warning}")
    text = writer.render(
        result.recording,
        transcript,
        report(result.recording, transcript, result.seconds, result.info),
    )
    path = writer.path(result.recording)
    if path is None:
        print_result(text)
    else:
        _write(path, text)
    for span in transcript.failed:
        stderr.print(
            f"earshot: {name}: no text from {span.start_s:.1f} s to {span.end_s:.1f} s: "
            f"{span.reason}"
        )
    return not transcript.failed


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        _exit_unwritten(path, error)


def _exit_unwritten(path: Path, error: OSError) -> NoReturn:
    exit_with(2, f"cannot write {display_name(path)}: {error.strerror}")


def _print_error(result: FileResult) -> None:
    name = result.recording.label
    reason = str(result.error).removeprefix(f"{display_name(result.recording.path)}: ")
    stderr.print(f"earshot: {name}: {reason}")
    before = result.error and result.error.transcript
    if before and before.text:
        stderr.print(f"earshot: {name}: recognized before that: {before.text}")
