"""Define the options that commands share, and end commands on a user's mistake.

Commands import heavy modules where they use them, so that `--help` and bad options answer at once.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

PROJECT = Path(__file__).parents[1]
RECORDINGS = PROJECT / "recordings"
LOCUSTFILE = PROJECT / "loadtest" / "locustfile.py"
DEFAULT_REPOSITORY = Path("model_repository")
MIN_STREAM_S = 20.0
"""Least length of a stream; streams begin and end all the time, as in a live service."""

Url = Annotated[
    str | None, typer.Option(help="Server, host:port. Default: start one on --repository.")
]
Repository = Annotated[Path, typer.Option(help="Exported models to serve for the run.")]
RepositoryWithoutUrl = Annotated[
    Path, typer.Option(help="Exported models to serve if there is no --url.")
]
MetricsUrl = Annotated[
    str | None, typer.Option(help="Triton's metrics. Default: port 8002 of the server's host.")
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Recognizer to use if the server has several. A name without its _v number means the "
        "newest."
    ),
]
HoldS = Annotated[float, typer.Option(min=1, help="Length of the final hold, in seconds.")]
P99Ms = Annotated[
    float | None, typer.Option(min=1, help="Allowed p99 chunk latency. Default: one chunk.")
]
AllowedChange = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Share of a stream's tokens that may differ from the reference. Default: 0 in "
        "float32, 0.25 otherwise.",
    ),
]
Processes = Annotated[
    int, typer.Option(min=0, help="Load generator processes to start on this machine.")
]
Workers = Annotated[int, typer.Option(min=0, help="Locust workers on other machines to wait for.")]
MasterPort = Annotated[int | None, typer.Option(help="Port to which those workers connect.")]
Speech = Annotated[
    Path,
    typer.Option(
        help="Folder with the recordings to send. Default: the bundled ones.", show_default=False
    ),
]
Output = Annotated[Path, typer.Option(help="JSON file to write the result to.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

console = Console(stderr=True)


class OtherRecognizer(StrEnum):
    """A recognizer to compare with (`loadtest/compare/recognizers.py`)."""

    POCKETSPHINX = "pocketsphinx"
    WHISPER = "whisper"


@dataclass(frozen=True)
class LoadOptions:
    """Options of a load test, passed from the command to all parts."""

    url: str = ""
    """Server, host:port; empty: start one on `repository`."""
    repository: Path | None = None
    """Exported models that the server serves, if known."""
    metrics_url: str | None = None
    model: str | None = None
    """Recognizer to use, as for `earshot.connect`."""
    speech: Path = RECORDINGS
    """Folder with the recordings to send."""
    min_stream_s: float = MIN_STREAM_S
    """Streams last at least this long."""
    processes: int = 1
    """Load generator processes to start on this machine."""
    workers: int = 0
    """Locust workers on other machines to wait for."""
    master_port: int | None = None
    """Port to which those workers connect."""
    hold_s: float = 60.0
    """Length of the final hold."""
    short_hold_s: float = 10.0
    """Length of the other holds of a search, if the final one is not shorter."""
    warm_up_s: float = 3.0
    """Time before each hold that is not recorded."""
    p99_ms: float | None = None
    """Allowed p99 chunk latency; `None`: one chunk."""
    allowed_change: float | None = None
    """Share of a stream's tokens that may differ from the reference; `None`: none in float32, a
    quarter otherwise."""
    chunk_share: float | None = None
    """`--chunk-share` of a server that is started here; `None`: no such limit."""
    locustfile: Path = LOCUSTFILE


@dataclass(frozen=True)
class AgreementOptions:
    """Options of the comparison with perf_analyzer."""

    binary: Path
    """The `perf_analyzer` to run."""
    repository: Path
    model: str | None
    closed: tuple[int, ...]
    """Numbers of streams in the closed loop."""
    open_streams: int
    rounds: int
    seconds: float
    """Length of one measurement."""


@contextmanager
def exiting_on(*mistakes: type[Exception]) -> Generator[None]:
    """On any of `mistakes`, print its message and end the command with exit code 2."""
    try:
        yield
    except mistakes as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
