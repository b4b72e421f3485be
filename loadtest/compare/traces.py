"""`python -m loadtest traces`: measure the cost of tracing requests.

The CPU time per chunk of all server processes is measured without and with traces, in turn, on
saturated servers of the same models. The collector discards what it receives.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from loadtest.options import (
    DEFAULT_REPOSITORY,
    RECORDINGS,
    Json,
    Model,
    Repository,
    console,
    exiting_on,
)
from loadtest.result.machine import cpu_model, now, this_command

if TYPE_CHECKING:
    from loadtest.audio.recordings import Audio
    from loadtest.compare.saturate import SaturatedRun

DEFAULT_EVERY = [1000, 100, 1]
OFF = 0
"""Value for no traces at all, instead of "one in N"."""
_SPAN = b'"spanId"'


def traces(
    repository: Repository = DEFAULT_REPOSITORY,
    model: Model = None,
    every: Annotated[
        list[int], typer.Option(min=1, help="Trace one in this many requests; repeatable.")
    ] = DEFAULT_EVERY,
    streams: Annotated[int, typer.Option(help="Streams that send without pause.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each setting.")] = 2,
    seconds: Annotated[float, typer.Option(help="Length of a turn.")] = 10.0,
    as_json: Json = False,
) -> None:
    """Compare streams per core of a server without traces and with some requests traced."""
    import earshot

    from loadtest.audio.scripts import load_speech
    from loadtest.compare.saturate import StreamsFailed
    from loadtest.service.server import ServerEnded

    started_at = now()
    turns: dict[int, list[_Turn]] = {}
    with exiting_on(ServerEnded, StreamsFailed, earshot.EarshotError):
        speech = load_speech(RECORDINGS)
        for number in range(rounds):
            for one_in in (OFF, *every):
                console.print(f"round {number + 1} of {rounds}, {_name(one_in)}")
                turn = _measure(repository, model, one_in, speech, streams, seconds)
                turns.setdefault(one_in, []).append(turn)
    report = _report(turns, streams, started_at)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)


@dataclass(frozen=True)
class _Turn:
    """One measurement of one setting."""

    run: SaturatedRun
    spans: int
    """Number of spans that the collector received, including the server's warm-up."""


@dataclass
class _Sink:
    """A collector that only counts spans."""

    url: str
    spans: int = 0


@contextmanager
def _discarding() -> Generator[_Sink]:
    sink = _Sink("")

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sink.spans += body.count(_SPAN)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        sink.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
        threading.Thread(target=server.serve_forever).start()
        try:
            yield sink
        finally:
            server.shutdown()


def _measure(
    repository: Path,
    model: str | None,
    one_in: int,
    speech: Audio,
    streams: int,
    seconds: float,
) -> _Turn:
    from loadtest.compare.saturate import saturate
    from loadtest.service.server import serving

    with _discarding() as sink:
        flags = [] if one_in == OFF else ["--otlp-url", sink.url, "--trace-every", str(one_in)]
        with serving(repository, *flags) as server:
            run = asyncio.run(saturate(server, speech, streams, seconds, model))
        return _Turn(run, sink.spans)


def _report(turns: dict[int, list[_Turn]], streams: int, started_at: str) -> dict[str, Any]:
    info = turns[OFF][0].run.info
    settings = [_setting(one_in, of_setting) for one_in, of_setting in turns.items()]
    return {
        "checkpoint": info.model,
        "precision": info.precision,
        "chunk_ms": info.chunk_ms,
        "streams": streams,
        "settings": [
            setting
            | {"ratio": round(setting["streams_per_core"] / settings[0]["streams_per_core"], 3)}
            for setting in settings
        ],
        "cpu_model": cpu_model(),
        "server": info.server,
        "command": this_command(),
        "started_at": started_at,
    }


def _setting(one_in: int, turns: Sequence[_Turn]) -> dict[str, Any]:
    runs = [turn.run for turn in turns]
    return {
        "trace_every": one_in,
        "chunks": sum(run.chunks for run in runs),
        "spans": sum(turn.spans for turn in turns),
        "cpu_ms_per_chunk": round(statistics.mean(run.total_ms for run in runs), 3),
        "of_tritonserver": round(
            statistics.mean(run.cpu_ms_per_chunk["triton"] for run in runs), 3
        ),
        "streams_per_core": round(statistics.mean(run.streams_per_core for run in runs), 1),
        "of_each_turn": [round(run.streams_per_core, 1) for run in runs],
    }


def _name(one_in: int) -> str:
    return "no traces" if one_in == OFF else f"one in {one_in}"


def _print(report: dict[str, Any]) -> None:
    table = Table("traced", "CPU ms per chunk", "of tritonserver", "streams per core", "ratio")
    for setting in report["settings"]:
        table.add_row(
            _name(setting["trace_every"]),
            f"{setting['cpu_ms_per_chunk']:.3f}",
            f"{setting['of_tritonserver']:.3f}",
            f"{setting['streams_per_core']} {setting['of_each_turn']}",
            f"{setting['ratio']:.3f}",
        )
    Console().print(table)
