"""The parameters of the served models; the client reads all of them from the server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ._errors import UnsupportedServer

STREAMING = "asr_streaming"
OFFLINE = "asr_offline"
CONTRACT_VERSION = "1"
ADAPTED_CONTRACT_VERSION = "2"
"""The contract of a recognizer with the parameter `adapter`, whose value clients repeat to the
server when a stream starts, and with every piece of a file."""


def served_name(name: str, role: str) -> str:
    """Return Triton's name for a model of a recognizer; "" is the unnamed recognizer."""
    return f"{name}_{role}" if name else role


@dataclass(frozen=True)
class Head:
    """A classifier that a recognizer runs on every stream, beside the transcription."""

    name: str
    labels: tuple[str, ...]
    """The labels that it chooses from."""


@dataclass(frozen=True)
class ServerInfo:
    """The parameters of a streaming recognizer, from its model config."""

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
    """Zeros that the client sends before the audio; the first chunk takes that much less audio."""
    frame_ms: int
    """Duration of an encoder frame, the grid of token and word times."""
    max_streams: int
    sequence_idle_ms: int
    """The server drops a stream that sends nothing for this long."""
    name: str = ""
    """Name of the recognizer; "" is the unnamed one."""
    adapter: str = ""
    """The adapter that the recognizer adds to its checkpoint; "" for the checkpoint alone."""
    heads: tuple[Head, ...] = ()
    """Its classifiers; most recognizers have none."""

    @property
    def ensemble(self) -> str:
        """Return Triton's name for the model."""
        return served_name(self.name, STREAMING)


@dataclass(frozen=True)
class OfflineInfo:
    """The parameters of an offline recognizer, which takes files in pieces of limited length."""

    url: str
    server: str
    """Name and version of the serving software."""
    model: str
    """Name of the checkpoint."""
    architecture: str
    precision: str
    runtime: str
    sample_rate_hz: int
    frame_ms: int
    """Duration of an encoder frame, the grid of token and word times."""
    buckets_ms: tuple[int, ...]
    """The lengths that the server batches, ascending; the last is that of the longest piece."""
    name: str = ""
    """Name of the recognizer; "" is the unnamed one."""
    adapter: str = ""
    """The adapter that the recognizer adds to its checkpoint; "" for the checkpoint alone."""

    @property
    def ensemble(self) -> str:
        """Return Triton's name for the model."""
        return served_name(self.name, OFFLINE)

    @property
    def frame_samples(self) -> int:
        """Return the samples of an encoder frame."""
        return self.frame_ms * self.sample_rate_hz // 1000

    @property
    def longest_samples(self) -> int:
        """Return the samples of the longest piece that the server takes."""
        return self.bucket_samples(self.buckets_ms[-1])

    def bucket_samples(self, bucket_ms: int) -> int:
        """Return the samples of a bucket."""
        return bucket_ms * self.sample_rate_hz // 1000


def read_server_info(
    url: str, server: str, parameters: Mapping[str, str], name: str = ""
) -> ServerInfo:
    """Parse the parameters of a streaming model config; raise UnsupportedServer."""
    read = _Parameters(served_name(name, STREAMING), parameters)
    adapter = read.adapter()
    info = ServerInfo(
        url=url,
        server=server,
        model=read.text("checkpoint"),
        precision=read.text("precision"),
        runtime=read.text("runtime"),
        sample_rate_hz=read.number("sample_rate_hz"),
        chunk_ms=read.number("chunk_ms"),
        chunk_samples=read.number("chunk_samples"),
        lead_samples=read.number("lead_samples", at_least=0),
        frame_ms=read.number("frame_ms"),
        max_streams=read.number("max_streams"),
        sequence_idle_ms=read.number("sequence_idle_ms"),
        name=name,
        adapter=adapter,
        heads=read.heads(),
    )
    if info.lead_samples >= info.chunk_samples:
        raise UnsupportedServer(
            f"lead_samples ({info.lead_samples}) must be less than "
            f"chunk_samples ({info.chunk_samples})"
        )
    return info


def read_offline_info(
    url: str, server: str, parameters: Mapping[str, str], name: str = ""
) -> OfflineInfo:
    """Parse the parameters of an offline model config; raise UnsupportedServer."""
    read = _Parameters(served_name(name, OFFLINE), parameters)
    adapter = read.adapter()
    return OfflineInfo(
        url=url,
        server=server,
        model=read.text("checkpoint"),
        architecture=read.text("architecture"),
        precision=read.text("precision"),
        runtime=read.text("runtime"),
        sample_rate_hz=read.number("sample_rate_hz"),
        frame_ms=read.number("frame_ms"),
        buckets_ms=read.ascending("buckets_ms"),
        name=name,
        adapter=adapter,
    )


@dataclass(frozen=True)
class _Parameters:
    """The parameters of one model config."""

    model: str
    values: Mapping[str, str]

    def adapter(self) -> str:
        """Return the adapter; raise UnsupportedServer if the contract version is unknown."""
        version = self.text("contract_version")
        if version not in (CONTRACT_VERSION, ADAPTED_CONTRACT_VERSION):
            raise UnsupportedServer(
                f"the server has contract version {version}, this client {CONTRACT_VERSION} and "
                f"{ADAPTED_CONTRACT_VERSION}: install the client of the same release as the server"
            )
        return self.text("adapter") if version == ADAPTED_CONTRACT_VERSION else ""

    def text(self, name: str) -> str:
        try:
            return self.values[name]
        except KeyError:
            raise UnsupportedServer(
                f"the config of {self.model} has no parameter {name!r}"
            ) from None

    def number(self, name: str, at_least: int = 1) -> int:
        return self._whole(name, self.text(name), at_least)

    def ascending(self, name: str) -> tuple[int, ...]:
        numbers = tuple(self._whole(name, text, 1) for text in self.text(name).split(","))
        if list(numbers) != sorted(set(numbers)):
            raise UnsupportedServer(
                f"parameter {name!r} of {self.model} must ascend, not {self.text(name)!r}"
            )
        return numbers

    def heads(self) -> tuple[Head, ...]:
        """Return the heads of the recognizer; none if the config does not mention any."""
        text = self.values.get("heads", "{}")
        try:
            return tuple(Head(name, tuple(labels)) for name, labels in json.loads(text).items())
        except (ValueError, AttributeError, TypeError):
            raise UnsupportedServer(
                f"parameter 'heads' of {self.model} must be a JSON object of lists, not {text!r}"
            ) from None

    def _whole(self, name: str, text: str, at_least: int) -> int:
        if not text.isdecimal() or int(text) < at_least:
            raise UnsupportedServer(
                f"parameter {name!r} of {self.model} must be a whole number of at least "
                f"{at_least}, not {text!r}"
            )
        return int(text)
