"""A gRPC server that answers like Triton, for what a real one cannot be made to do at will."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

NOTHING_NEW = {"TEXT": struct.pack("<I", 0), "TOKEN_COUNT": struct.pack("<i", 0)}


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Describes itself with `parameters`; answers a chunk, with nothing, when `answer` is set."""

    def __init__(self, parameters: dict[str, str] | None) -> None:
        self.url = ""
        self.parameters = parameters
        self.answer = threading.Event()
        self.arrived = threading.Semaphore(0)
        self.seen: list[str] = []
        self.headers: list[dict[str, str]] = []

    def ServerMetadata(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerMetadataResponse(name="triton", version="9")

    def ModelConfig(self, request: Any, context: Any) -> Any:
        if self.parameters is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model: {request.name!r}")
        response = service_pb2.ModelConfigResponse()
        for name, value in (self.parameters or {}).items():
            response.config.parameters[name].string_value = value
        return response

    def ModelInfer(self, request: Any, context: Any) -> Any:
        chunk = "END" if "sequence_end" in request.parameters else "chunk"
        self.headers.append(dict(context.invocation_metadata()))
        self.seen.append(f"{chunk} arrived")
        self.arrived.release()
        self.answer.wait()
        self.seen.append(f"{chunk} {'answered' if context.is_active() else 'cancelled'}")
        return service_pb2.ModelInferResponse(
            outputs=[
                service_pb2.ModelInferResponse.InferOutputTensor(name=name) for name in NOTHING_NEW
            ],
            raw_output_contents=NOTHING_NEW.values(),
        )


@contextmanager
def fake_triton(parameters: dict[str, str] | None, credentials: Any = None) -> Iterator[FakeTriton]:
    """Serves on a free port, encrypted if there are credentials."""
    fake = FakeTriton(parameters)
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
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
