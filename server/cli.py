"""`python -m server --repository DIR`: serve in the foreground until SIGINT or SIGTERM.

`python -m server drain` stops such a server without cutting its streams.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from .access import read_access
from .errors import TritonDied, UserError
from .ports import MAX_PORT
from .tracing import MAX_TRACE_EVERY, TRACE_EVERY, Tracing

if TYPE_CHECKING:
    from .launch import Triton

# Diagnostics go to stderr. The ready line goes to stdout, for scripts.
_console = Console(stderr=True)
_app = typer.Typer(
    invoke_without_command=True, add_completion=False, pretty_exceptions_enable=False
)
_GrpcPort = Annotated[
    int, typer.Option(min=1, max=MAX_PORT, help="Port on which the server serves gRPC.")
]


def _check_log(path: Path | None) -> Path | None:
    if path is not None and path.exists() and not path.is_file():
        raise typer.BadParameter(f"expected a file, which is also read, got {path}")
    return path


def _check_share(share: float | None) -> float | None:
    from .admission import LEAST_SHARE

    if share and share < LEAST_SHARE:
        raise typer.BadParameter(f"expected 0, or at least {LEAST_SHARE}, got {share:g}")
    return share


@_app.callback()
def serve(
    context: typer.Context,
    repository: Annotated[
        Path | None, typer.Option(help="Folder with the exported models.")
    ] = None,
    host: Annotated[str, typer.Option(help="IPv4 address to listen on.")] = "127.0.0.1",
    grpc_port: Annotated[
        int, typer.Option(min=0, max=MAX_PORT, help="Port for inference over gRPC; 0: a free one.")
    ] = 8001,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=MAX_PORT, help="Port that Prometheus scrapes; 0: a free one.")
    ] = 8002,
    http_port: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_PORT, help="Port for Triton's HTTP protocol; off by default."),
    ] = None,
    log_file: Annotated[
        Path | None,
        typer.Option(
            callback=_check_log, help="File for Triton's log; a temporary file by default."
        ),
    ] = None,
    model_control: Annotated[
        bool,
        typer.Option(
            "--model-control",
            help="Let callers load and unload models (`earshot models`). Triton also loads models "
            "that a caller sends, and runs their Python code as the user of the server: off "
            "loopback this needs --admin-key-file.",
        ),
    ] = False,
    chunk_share: Annotated[
        float | None,
        typer.Option(
            callback=_check_share,
            show_default=False,
            help="Refuse a new stream if chunks would then take longer than this share of their "
            "length; 0: never. 0.15 by default, 0 for TensorRT.",
        ),
    ] = None,
    drain_s: Annotated[
        float,
        typer.Option(
            min=1, help="Seconds that open streams may continue after SIGTERM or `drain`."
        ),
    ] = 60.0,
    admin_key_file: Annotated[
        Path | None,
        typer.Option(help="File with the key that --model-control then requires."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token that every client then has to send."),
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="PEM file with the server's certificate: encrypts gRPC.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="PEM file with the key of the certificate.")
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(help="PEM file; clients then need a certificate signed by one of these."),
    ] = None,
    otlp_url: Annotated[
        str | None,
        typer.Option(
            envvar="EARSHOT_OTLP_URL",
            help="Send traces to this OpenTelemetry collector (OTLP over HTTP), such as "
            "http://collector:4318/v1/traces; off by default.",
        ),
    ] = None,
    trace_every: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_TRACE_EVERY,
            help="Trace one in this many requests that have no trace context; 0: none. Requests "
            "that have one are always traced.",
        ),
    ] = TRACE_EVERY,
) -> None:
    """Serve a model repository with the embedded Triton or, for TensorRT, in NVIDIA's container.

    SIGTERM drains the server: it is no longer ready, refuses new streams, and serves open ones for
    up to --drain-s. A second SIGTERM, or Ctrl-C, stops it at once.
    """
    if context.invoked_subcommand is not None:
        return
    if repository is None:
        raise typer.BadParameter(
            "give the folder with the exported models", param_hint="--repository"
        )
    access = read_access(
        certificate=tls_certificate,
        key=tls_key,
        client_ca=tls_client_ca,
        token_file=token_file,
        admin_key_file=admin_key_file,
    )
    access.check(host, model_control=model_control, http=http_port is not None)
    for warning in access.warnings(host):
        _console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    tracing = None if otlp_url is None else Tracing(otlp_url, trace_every)
    from .launch import running  # gRPC and numpy: --help and bad options do not wait for them
    from .watch import stop_on_sigterm, watch

    stop_on_sigterm()
    with _stopping_at_once(), _progress() as bar:
        task = bar.add_task("loading models", total=None)
        reported: list[str] = []

        def show(loaded: int, models: int, phases: list[str]) -> None:
            for phase in phases[len(reported) :]:
                _report(phase)
                reported.append(phase)
            bar.update(task, completed=loaded, total=models)

        server = running(
            repository,
            host=host,
            grpc_port=grpc_port or None,
            metrics_port=metrics_port or None,
            http_port=http_port,
            log_path=log_file,
            model_control=model_control,
            drain_s=drain_s,
            chunk_share=chunk_share,
            access=access,
            tracing=tracing,
            progress=show,
        )
        with server as triton:
            bar.stop()
            watch(triton, drain_s, _report, lambda: _announce(triton))


@_app.command()
def drain(grpc_port: _GrpcPort = 8001) -> None:
    """Stop the server on --grpc-port as SIGTERM does, and wait for its end."""
    from .drain import drain_server

    drain_server(grpc_port)


@_app.command()
def health(grpc_port: _GrpcPort = 8001) -> None:
    """Exit with 0 if every stage of the server on --grpc-port answers a chunk of silence."""
    from .health import check_health

    check_health(grpc_port)


@contextlib.contextmanager
def _stopping_at_once() -> Generator[None]:
    """End without an error on Ctrl-C, or on a second SIGTERM, and report the end."""
    try:
        yield
    except KeyboardInterrupt:
        _report("the server has stopped")


def _report(message: str) -> None:
    _console.print(message, markup=False, highlight=False, soft_wrap=True)


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=_console,
        transient=True,
    )


def _announce(triton: Triton) -> None:
    if triton.budget is not None:
        _console.print(*triton.budget.lines(), sep="\n", markup=False, highlight=False)
    print(
        f"ready: gRPC {triton.grpc_url}, metrics {triton.metrics_url}, log {triton.log_path}",
        flush=True,
    )


def main() -> None:
    """Run the command line; exit with 2 for a user's mistake, with 1 if the server failed."""
    try:
        _app()
    except UserError as error:
        _console.print(f"error: {error}", markup=False, style="red", soft_wrap=True)
        raise SystemExit(2) from None
    except TritonDied as error:
        _console.print(f"error: {error}", markup=False, style="red", soft_wrap=True)
        raise SystemExit(1) from None
