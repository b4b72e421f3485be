"""Find the recognizer that a client asks for, and read its parameters.

This module does no input or output: it yields rounds of requests, which the blocking and the
asyncio client send in their own ways.

A recognizer `NAME` is served as `NAME_asr_streaming`, `NAME_asr_offline`, or both. The name
`clinic` also selects the newest generation whose models are all ready, `clinic_v3` before
`clinic_v2`. Without a name, a client gets the unnamed recognizer, or the only one of the server. An
open stream stays with the recognizer on which it began.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from tritonclient.grpc import service_pb2

from ._errors import EarshotError, UnsupportedServer
from ._failures import connect_error
from ._server_info import (
    OFFLINE,
    STREAMING,
    OfflineInfo,
    ServerInfo,
    read_offline_info,
    read_server_info,
    served_name,
)

_GENERATION = re.compile(r"(?P<family>.+)_v(?P<number>\d+)")
READY_STATE = "READY"
UNNAMED = "default"
"""The name that users see for the unnamed recognizer."""

# The generated protobuf classes have no types.
_pb: Any = service_pb2


@dataclass(frozen=True)
class Question:
    """One call: the name of a method of Triton, and its request."""

    method: str
    request: Any


@dataclass(frozen=True)
class Served:
    """The recognizers that a client uses; a server has at least one of the two."""

    streaming: ServerInfo | None
    offline: OfflineInfo | None

    def for_files(self, streaming: bool = False) -> ServerInfo | OfflineInfo:
        """Return the recognizer of whole files: offline if there is one, else streaming.

        Args:
            streaming: Return the streaming recognizer even if there is an offline one.

        Raises:
            UnsupportedServer: `streaming` is true, and there is no streaming recognizer.
        """
        if streaming or self.offline is None:
            return require_streaming(self)
        return self.offline


def require_streaming(served: Served) -> ServerInfo:
    """Return the streaming recognizer; raise UnsupportedServer if there is none."""
    if served.streaming is None:
        raise _missing(served, STREAMING, "send whole files with `transcribe`, without streaming")
    return served.streaming


def require_offline(served: Served) -> OfflineInfo:
    """Return the offline recognizer; raise UnsupportedServer if there is none."""
    if served.offline is None:
        raise _missing(served, OFFLINE, "stream files with `transcribe`")
    return served.offline


def ready_request(served: Served) -> Any:
    """Return the request that asks whether a recognizer is ready."""
    return _pb.ModelReadyRequest(name=_either(served).ensemble)


def _missing(served: Served, role: str, advice: str) -> UnsupportedServer:
    info = _either(served)
    return UnsupportedServer(f"{info.url} has no model {served_name(info.name, role)}: {advice}")


def _either(served: Served) -> ServerInfo | OfflineInfo:
    info = served.streaming or served.offline
    assert info is not None
    return info


Handshake: TypeAlias = Generator[list[Question], Sequence[Any], Served]
"""Yields rounds of questions; receives a reply or a grpc.RpcError for each question."""

INDEX_QUESTION = Question("RepositoryIndex", _pb.RepositoryIndexRequest())
_STATISTICS_QUESTION = Question("ModelStatistics", _pb.ModelStatisticsRequest())
_METADATA_QUESTION = Question("ServerMetadata", _pb.ServerMetadataRequest())


def handshake(target: str, model: str | None, connect_s: float) -> Handshake:
    """Find the recognizer `model` of the server `target`; raise what `connect` raises."""
    metadata, *configs = yield [_METADATA_QUESTION, *_config_questions(model or "")]
    server = _Server(target, connect_s)
    server.read_metadata(metadata)
    served = server.read(configs, model or "")
    if served is None:
        [index] = yield [INDEX_QUESTION]
        if isinstance(index, grpc.RpcError):
            # Only operators may list the repository; everybody may see which models are loaded.
            [index] = yield [_STATISTICS_QUESTION]
        name = server.choose(index, model)
        served = server.read((yield _config_questions(name)), name)
        if served is None:
            raise UnsupportedServer(f"{target} has just unloaded '{name}'; connect again")
    return served


class _Server:
    """Reads the answers of one server."""

    def __init__(self, target: str, connect_s: float) -> None:
        self._target = target
        self._connect_s = connect_s
        self._title = ""

    def read_metadata(self, metadata: Any) -> None:
        self._check(metadata)
        self._title = f"{metadata.name} {metadata.version}"

    def read(self, configs: Sequence[Any], name: str) -> Served | None:
        """Return the recognizer with these configs, or None if the server has neither model."""
        streaming, offline = (self._parameters(config) for config in configs)
        if streaming is None and offline is None:
            return None
        about = self._target, self._title
        return Served(
            None if streaming is None else read_server_info(*about, streaming, name),
            None if offline is None else read_offline_info(*about, offline, name),
        )

    def choose(self, index: Any, model: str | None) -> str:
        """Return the name that `model` selects if no recognizer has exactly that name."""
        wanted = f"'{model}'" if model else STREAMING
        if isinstance(index, grpc.RpcError):
            raise UnsupportedServer(
                f"{self._target} has no model {wanted}, and does not list its models"
            ) from index
        ready = _complete(index)
        name = newest(ready, model)
        if name is None:
            there = ", ".join(other or UNNAMED for other in ready) or "no recognizer"
            raise UnsupportedServer(
                f"{self._target} has no model {wanted}; it serves {there}: choose one with `model` "
                "(--model)"
            )
        return name

    def _parameters(self, config: Any) -> dict[str, str] | None:
        if _is_unknown(config):
            return None
        self._check(config)
        return {name: value.string_value for name, value in config.config.parameters.items()}

    def _check(self, answer: Any) -> None:
        if isinstance(answer, grpc.RpcError):
            raise self._error(answer) from answer

    def _error(self, failure: Any) -> EarshotError:
        return connect_error(failure, self._target, self._connect_s)


def recognizers(models: Iterable[str]) -> list[str]:
    """Return the sorted names of the recognizers among model names; "" is the unnamed one."""
    names: set[str] = set()
    for model in models:
        for role in (STREAMING, OFFLINE):
            if model == role or model.endswith(f"_{role}"):
                names.add(model[: -len(role)].rstrip("_"))
    return sorted(names)


def _complete(index: Any) -> list[str]:
    """Return the recognizers whose models are all ready: others may still be loading.

    Statistics cover only models that are loaded.
    """
    if isinstance(index, _pb.ModelStatisticsResponse):
        return recognizers(entry.name for entry in index.model_stats)
    ensembles = {entry.name for entry in index.models}
    waiting = ensembles - {entry.name for entry in index.models if entry.state == READY_STATE}
    return sorted(set(recognizers(ensembles)) - set(recognizers(waiting)))


def newest(names: Sequence[str], family: str | None) -> str | None:
    """Return the newest generation of `family`, or of the only family if none is given.

    `UNNAMED` stands for the recognizer without a name, as in the list that users see.
    """
    generations: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        match = _GENERATION.fullmatch(name)
        key, number = (match["family"], int(match["number"])) if match else (name, -1)
        generations.setdefault(key, []).append((number, name))
    if family is None and len(generations) == 1:
        [family] = generations
    found = generations.get("" if family in (None, UNNAMED) else family)
    return max(found)[1] if found else None


def _config_questions(name: str) -> list[Question]:
    return [
        Question("ModelConfig", _pb.ModelConfigRequest(name=served_name(name, role)))
        for role in (STREAMING, OFFLINE)
    ]


def _is_unknown(answer: Any) -> bool:
    """Return whether the server lacks the model; it answers NOT_FOUND for an unloaded one, too."""
    return isinstance(answer, grpc.RpcError) and answer.code() == grpc.StatusCode.NOT_FOUND  # pyright: ignore
