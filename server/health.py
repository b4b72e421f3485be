"""`python -m server.health`: exit with 0 if the server of this container takes requests.

For health checks where neither HTTP nor a shell's tools are at hand.
"""

from __future__ import annotations

import sys
from typing import Annotated

import tritonclient.grpc as grpcclient
import typer
from tritonclient.utils import InferenceServerException

_TIMEOUT_S = 3.0


def main(
    url: Annotated[str, typer.Option(help="host:port of gRPC.")] = "127.0.0.1:8001",
) -> None:
    """Ask a running server whether all its models are ready."""
    try:
        options = [("grpc.enable_http_proxy", 0)]
        with grpcclient.InferenceServerClient(url, channel_args=options) as client:
            ready = bool(client.is_server_ready(client_timeout=_TIMEOUT_S))
    except InferenceServerException as error:
        sys.exit(f"error: no answer from {url}: {error}")
    if not ready:
        sys.exit(f"error: {url} is not ready")


if __name__ == "__main__":
    typer.run(main)
