"""The command `earshot`: results to stdout, everything else to stderr.

Exit codes: 0; 1 if some audio could not be transcribed; 2 for wrong usage or no usable server;
130 after Ctrl-C.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
from collections.abc import Generator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from ._aio import connect_async
from ._batch import Batch, FileResult
from ._errors import ConnectionFailed, EarshotError, UnsupportedServer
from ._files import display_name
from ._grpc import read_address
from ._microphone import Microphone, open_microphone
from ._server_info import ServerInfo
from ._sync import connect
from ._transcript import Transcript

_stderr = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
app = typer.Typer(
    help="Transcribe audio with an Earshot server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # brackets in help texts are meant as such
)


def _check_url(url: str) -> str:
    try:
        read_address(url, tls=False, root_certificates=None)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return url


_Url = Annotated[
    str,
    typer.Option(
        envvar="EARSHOT_URL",
        callback=_check_url,
        help="host:port, or grpcs://host:port for TLS.",
    ),
]
_RootCertificates = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="PEM file to verify the server with (TLS)."),
]
_DEFAULT_URL = "localhost:8001"


@app.command()
def transcribe(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", show_default=False)],
    url: _Url = _DEFAULT_URL,
    root_certificates: _RootCertificates = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per file, with word times.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Files to transcribe at the same time.")] = 4,
) -> None:
    """Transcribe audio files (wav, flac, ogg, mp3): one line each, in the given order."""

    async def run() -> int:
        failed = 0
        async with (
            connect_async(url, root_certificates=_read(root_certificates)) as client,
            aclosing(Batch(client, jobs, _stderr).results(files)) as results,
        ):
            async for result in results:
                failed += not _print_result(result, client.info, as_json, named=len(files) > 1)
        return failed

    with _exiting_on_errors():
        failed = asyncio.run(run())
    if failed:
        raise typer.Exit(1)


@app.command()
def mic(url: _Url = _DEFAULT_URL, root_certificates: _RootCertificates = None) -> None:
    """Transcribe the microphone until Ctrl-C (needs 'earshot-client[mic]')."""
    with (
        _exiting_on_errors(),
        connect(url, root_certificates=_read(root_certificates)) as client,
        open_microphone() as microphone,
    ):
        _stop_on_ctrl_c(microphone)
        for result in client.stream_from(
            microphone, sample_rate_hz=microphone.sample_rate_hz, channels=microphone.channels
        ):
            typer.echo(result.text, nl=False)
    typer.echo()


@app.command()
def info(
    url: _Url = _DEFAULT_URL,
    root_certificates: _RootCertificates = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what the server serves."""
    with (
        _exiting_on_errors(),
        connect(url, root_certificates=_read(root_certificates)) as client,
    ):
        answer = {**dataclasses.asdict(client.info), "ready": client.is_ready()}
    if as_json:
        typer.echo(json.dumps(answer))
        return
    width = max(map(len, answer))
    for name, value in answer.items():
        typer.echo(f"{name:<{width}}  {value}")


def _stop_on_ctrl_c(microphone: Microphone) -> None:
    """Lets the last words still come; a second Ctrl-C interrupts as usual."""

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        microphone.stop()

    signal.signal(signal.SIGINT, stop)


@contextmanager
def _exiting_on_errors() -> Generator[None, None, None]:
    """What ends the whole command: said in a line or two, without a traceback."""
    try:
        yield
    except ConnectionFailed as error:
        _exit(2, f"{error}\nStart an Earshot server there, or name one with --url or EARSHOT_URL.")
    except UnsupportedServer as error:
        _exit(2, str(error))
    except EarshotError as error:
        _exit(1, str(error))
    except KeyboardInterrupt:
        _exit(130, "interrupted")


def _exit(code: int, message: str) -> NoReturn:
    _stderr.print(f"earshot: {message}")
    raise typer.Exit(code)


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _print_result(result: FileResult, info: ServerInfo, as_json: bool, *, named: bool) -> bool:
    """Whether there was a transcript to print."""
    name = display_name(result.path)
    if result.cut_off:
        _stderr.print(f"earshot: {name}: the file breaks off: its header promises more audio")
    if result.transcript is None:
        _print_error(result)
        return False
    if as_json:
        report = _report(result.path, result.transcript, result.seconds, info)
        typer.echo(json.dumps(report, ensure_ascii=False))
    else:
        typer.echo(f"{name}: {result.transcript.text}" if named else result.transcript.text)
    return True


def _print_error(result: FileResult) -> None:
    name = display_name(result.path)
    reason = str(result.error).removeprefix(f"{name}: ")
    _stderr.print(f"earshot: {name}: {reason}")
    before = result.error and result.error.transcript
    if before and before.text:
        _stderr.print(f"earshot: {name}: recognized before that: {before.text}")


def _report(path: Path, transcript: Transcript, seconds: float, info: ServerInfo) -> dict[str, Any]:
    return {
        "file": display_name(path),
        "text": transcript.text,
        "words": [
            {
                "word": word.text,
                "start_ms": word.start_ms,
                "end_ms": word.end_ms,
                "confidence": round(word.confidence, 4),
            }
            for word in transcript.words
        ],
        "duration_s": round(transcript.duration_s, 3),
        "audio_s_per_s": round(transcript.duration_s / seconds, 2),
        "model": info.model,
        "chunk_ms": info.chunk_ms,
    }
