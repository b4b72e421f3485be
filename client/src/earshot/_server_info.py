"""What the server says about itself; nothing of it is configured on the client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ._errors import UnsupportedServer

MODEL = "asr_streaming"
CONTRACT_VERSION = "1"


@dataclass(frozen=True)
class ServerInfo:
    """The server behind a client, read from its model config when the client connects."""

    url: str
    server: str
    """Name and version of the serving software."""
    model: str
    """Name of the checkpoint."""
    precision: str
    runtime: str
    sample_rate_hz: int
    chunk_ms: int
    chunk_samples: int
    lead_samples: int
    """Zeros that the client sends before the audio: the first chunk needs that much less of it."""
    frame_ms: int
    """Grid of token and word times."""
    max_streams: int
    sequence_idle_ms: int
    """The server forgets a stream that sends nothing for this long."""


def read_server_info(url: str, server: str, parameters: Mapping[str, str]) -> ServerInfo:
    """Checks and types the parameters of the model config; raises UnsupportedServer."""
    version = _text(parameters, "contract_version")
    if version != CONTRACT_VERSION:
        raise UnsupportedServer(
            f"the server speaks contract version {version}, this client {CONTRACT_VERSION}: "
            "install the client that belongs to the server"
        )
    info = ServerInfo(
        url=url,
        server=server,
        model=_text(parameters, "checkpoint"),
        precision=_text(parameters, "precision"),
        runtime=_text(parameters, "runtime"),
        sample_rate_hz=_number(parameters, "sample_rate_hz"),
        chunk_ms=_number(parameters, "chunk_ms"),
        chunk_samples=_number(parameters, "chunk_samples"),
        lead_samples=_number(parameters, "lead_samples", at_least=0),
        frame_ms=_number(parameters, "frame_ms"),
        max_streams=_number(parameters, "max_streams"),
        sequence_idle_ms=_number(parameters, "sequence_idle_ms"),
    )
    if info.lead_samples >= info.chunk_samples:
        raise UnsupportedServer(
            f"lead_samples ({info.lead_samples}) must be less than "
            f"chunk_samples ({info.chunk_samples})"
        )
    return info


def _text(parameters: Mapping[str, str], name: str) -> str:
    try:
        return parameters[name]
    except KeyError:
        raise UnsupportedServer(f"the config of {MODEL} has no parameter {name!r}") from None


def _number(parameters: Mapping[str, str], name: str, at_least: int = 1) -> int:
    text = _text(parameters, name)
    if not text.isdecimal() or int(text) < at_least:
        raise UnsupportedServer(
            f"parameter {name!r} of {MODEL} must be a whole number of at least {at_least}, "
            f"not {text!r}"
        )
    return int(text)
