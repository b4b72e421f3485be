"""A gRPC server that answers like Triton, for behaviour that a real one does not show on demand."""

from __future__ import annotations

import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

# The generated protobuf classes carry no types.
_pb: Any = service_pb2

OFFLINE = {
    "contract_version": "1",
    "checkpoint": "fake",
    "architecture": "FakeForCTC",
    "runtime": "python",
    "precision": "fp32",
    "mode": "offline",
    "sample_rate_hz": "16000",
    "frame_ms": "80",
    "buckets_ms": "2000,4000,8000,15000,30000",
}

DYING_CONNECTION = "Stream removed (Delayed close due to in-progress write (ping timeout))"
"""What gRPC says of a call on a connection that has ended, and that it has not left yet."""

Recognize = Callable[["ReceivedPiece"], "Tokens"]
Tokens = list[tuple[int, str, int]]
"""Id, text and frame of each token."""


@dataclass(frozen=True)
class ReceivedPiece:
    """A piece as the server received it."""

    samples: np.ndarray
    """The audio without the padding."""
    context: Any
    """The context of the gRPC call, to abort it."""


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Describes `models`; answers a chunk, with what `hear` returns, when `answer` is set.

    A piece of `asr_offline` is answered with the tokens that `recognize` returns.
    """

    def __init__(self, models: dict[str, dict[str, str]]) -> None:
        self.url = ""
        self.models = models
        self.restricted = False
        self.loading: set[str] = set()
        self.recognize: Recognize = lambda piece: []
        self.hear: Callable[[int], Tokens] = lambda index: []
        """Returns the tokens of a chunk of `asr_streaming`, by its number in the stream."""
        self.chunks: Counter[int] = Counter()
        """The chunks of each stream so far."""
        self.answer = threading.Event()
        self.arrived = threading.Semaphore(0)
        self.seen: list[str] = []
        self.lose: Counter[str] = Counter()
        """How many of the next requests of a kind, `chunk` or `END`, are lost with a connection."""
        self.saturated = 0
        """How many of the next chunks are refused, as those of new streams are."""
        self.headers: list[dict[str, str]] = []
        """The headers of each chunk."""
        self.answer_headers: tuple[tuple[str, str], ...] = ()
        """What comes before the answer to a chunk."""
        self.ids: list[str] = []
        """The id of the request of each chunk."""
        self.pieces: list[tuple[int, int]] = []
        """Samples without and with padding, of each piece."""

    def ServerMetadata(self, request: Any, context: Any) -> Any:
        return _pb.ServerMetadataResponse(name="triton", version="9")

    def ModelConfig(self, request: Any, context: Any) -> Any:
        if request.name not in self.models:
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model: {request.name!r}")
        response = _pb.ModelConfigResponse()
        for name, value in self.models[request.name].items():
            response.config.parameters[name].string_value = value
        return response

    def ModelReady(self, request: Any, context: Any) -> Any:
        return _pb.ModelReadyResponse(ready=request.name in self.models)

    def RepositoryIndex(self, request: Any, context: Any) -> Any:
        if self.restricted:
            context.abort(
                grpc.StatusCode.UNAVAILABLE,
                "This protocol is restricted, expecting header 'triton-grpc-protocol-admin-key'",
            )
        return _pb.RepositoryIndexResponse(
            models=[
                _pb.RepositoryIndexResponse.ModelIndex(
                    name=name, version="1", state="LOADING" if name in self.loading else "READY"
                )
                for name in self.models
            ]
        )

    def ModelStatistics(self, request: Any, context: Any) -> Any:
        names = [request.name] if request.name else self.models
        return _pb.ModelStatisticsResponse(
            model_stats=[_pb.ModelStatistics(name=name, version="1") for name in names]
        )

    def ModelInfer(self, request: Any, context: Any) -> Any:
        if request.model_name not in self.models:
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model: {request.model_name!r}")
        if "sequence_id" not in request.parameters:
            return self._answer_piece(request, context)
        chunk = "END" if "sequence_end" in request.parameters else "chunk"
        self.headers.append(dict(context.invocation_metadata()))
        self.ids.append(request.id)
        self.seen.append(f"{chunk} arrived")
        self.arrived.release()
        self.answer.wait()
        if self.saturated > 0:
            self.saturated -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "this server is saturated")
        if self.lose[chunk] > 0:
            self.lose[chunk] -= 1
            self.seen.append(f"{chunk} lost")
            context.abort(grpc.StatusCode.UNAVAILABLE, DYING_CONNECTION)
        context.send_initial_metadata(self.answer_headers)
        self.seen.append(f"{chunk} {'answered' if context.is_active() else 'cancelled'}")
        stream = request.parameters["sequence_id"].int64_param
        index = self.chunks[stream]
        self.chunks[stream] += 1
        return piece_reply(self.hear(index))

    def _answer_piece(self, request: Any, context: Any) -> Any:
        audio, length = request.raw_input_contents
        padded = np.frombuffer(audio, "<f4")
        assert list(request.inputs[0].shape) == [1, padded.size]
        valid = int.from_bytes(length, "little")
        assert not padded[valid:].any()
        piece = ReceivedPiece(padded[:valid], context)
        self.pieces.append((valid, padded.size))
        return piece_reply(self.recognize(piece))


def piece_reply(tokens: Tokens) -> Any:
    """A reply of `asr_offline`, with two unused slots at the end."""
    text = "".join(text for _, text, _ in tokens).encode()
    unused = [-1, -1]

    def ints(values: list[int]) -> bytes:
        return struct.pack(f"<{len(tokens) + 2}i", *values, *unused)

    raw = {
        "TEXT": struct.pack("<I", len(text)) + text,
        "TOKENS": ints([id for id, _, _ in tokens]),
        "TOKEN_FRAMES": ints([frame for _, _, frame in tokens]),
        "TOKEN_TEXT_LENGTHS": ints([len(text) for _, text, _ in tokens]),
        "TOKEN_LOGPROBS": struct.pack(f"<{len(tokens) + 2}f", *[-0.25] * len(tokens), *unused),
        "TOKEN_COUNT": struct.pack("<i", len(tokens)),
    }
    return _pb.ModelInferResponse(
        outputs=[_pb.ModelInferResponse.InferOutputTensor(name=name) for name in raw],
        raw_output_contents=raw.values(),
    )


@contextmanager
def fake_triton(
    parameters: dict[str, str] | None,
    credentials: Any = None,
    *,
    models: dict[str, dict[str, str]] | None = None,
) -> Iterator[FakeTriton]:
    """Serve on a free port, encrypted if there are credentials.

    `parameters` are those of `asr_streaming`; `models` are more, by name.
    """
    streaming = {} if parameters is None else {"asr_streaming": parameters}
    fake = FakeTriton(streaming | (models or {}))
    with ThreadPoolExecutor(16) as pool:
        options = [("grpc.max_receive_message_length", -1)]
        server = grpc.server(pool, options=options)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
        port = (
            server.add_secure_port("127.0.0.1:0", credentials)
            if credentials
            else server.add_insecure_port("127.0.0.1:0")
        )
        fake.url = f"127.0.0.1:{port}"
        server.start()
        try:
            yield fake
        finally:
            fake.answer.set()
            server.stop(None).wait()
