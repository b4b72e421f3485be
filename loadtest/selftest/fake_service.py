"""Run a fake service with known capacity and latency, to check the load test.

It has the protocol of the real service. Its recognizer is one simulated processor that takes
exactly `service_ms` for the audio of a chunk, first come first served, and `latency_ms` more to
answer; it waits on timers instead of computing, so a busy machine does not change the times. Its
text is a hash of the audio: any two parts of the speech have different words.

    capacity   chunk_ms / service_ms streams: with more the queue grows without end
    latency    service_ms + latency_ms, alone
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import subprocess
import sys
import zlib
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Annotated, Any

import grpc
import typer
from tritonclient.grpc import service_pb2

from loadtest.live.priority import use_real_time_priority
from loadtest.options import PROJECT
from loadtest.service.stages import model_name

_SAMPLE_RATE_HZ = 16_000
_SERVICE = "inference.GRPCInferenceService"
# gRPC's servers cancel calls at random while a thousand wait.
_ENDLESS_QUEUE = [
    ("grpc.server.max_pending_requests", 1_000_000),
    ("grpc.server.max_pending_requests_hard_limit", 1_000_000),
]
_pb: Any = service_pb2
_grpc: Any = grpc


@dataclass(frozen=True)
class Truth:
    """Exact figures of a fake service."""

    chunk_ms: int = 160
    service_ms: float = 0.0
    latency_ms: float = 0.0
    swap: bool = False
    """Swap the texts of two streams that are live at the same time."""
    name: str = ""
    """Name of its only recognizer; "" for an unnamed one."""

    @property
    def capacity(self) -> float:
        """Return the number of streams that the service sustains."""
        return self.chunk_ms / self.service_ms

    @property
    def idle_latency_ms(self) -> float:
        """Return the time from a chunk to its text for one stream alone."""
        return self.service_ms + self.latency_ms


class FakeRecognizer:
    """Answers requests as a recognizer with one simulated processor."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._chunk_samples = truth.chunk_ms * _SAMPLE_RATE_HZ // 1000
        self._free_s = 0.0
        self._texts: dict[int, bytes] = {}

    async def infer(self, request: bytes, context: Any) -> bytes:
        """Answer ModelInfer."""
        loop = asyncio.get_running_loop()
        message = _pb.ModelInferRequest.FromString(request)
        audio, length = message.raw_input_contents
        share = struct.unpack("<i", length)[0] / self._chunk_samples
        self._free_s = max(self._free_s, loop.time()) + share * self._truth.service_ms / 1000
        stream = message.parameters["sequence_id"].int64_param
        text = f"{zlib.crc32(audio):08x} ".encode() if share == 1 else b""
        if self._truth.swap:
            text = self._swapped(stream, text)
        if (wait_s := self._free_s + self._truth.latency_ms / 1000 - loop.time()) > 0:
            await asyncio.sleep(wait_s)
        if "sequence_end" in message.parameters:
            self._texts.pop(stream, None)
        return _reply(text)

    def _swapped(self, stream: int, text: bytes) -> bytes:
        """Return the text; for the first two live streams, the last text of the other one."""
        self._texts[stream] = text
        pair = list(self._texts)[:2]
        if stream not in pair or len(pair) < 2:
            return text
        return self._texts[pair[1 - pair.index(stream)]]

    async def metadata(self, request: bytes, context: Any) -> bytes:
        """Answer ServerMetadata."""
        return _pb.ServerMetadataResponse(name="fake", version="1").SerializeToString()

    async def config(self, request: bytes, context: Any) -> bytes:
        """Answer ModelConfig: there is one streaming model and no offline one."""
        name = _pb.ModelConfigRequest.FromString(request).name
        if name != model_name(self._truth.name, "asr_streaming"):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model: '{name}'")
        response = _pb.ModelConfigResponse()
        for name, value in _parameters(self._truth.chunk_ms, self._chunk_samples).items():
            response.config.parameters[name].string_value = value
        return response.SerializeToString()


@contextmanager
def fake_service(truth: Truth) -> Generator[str]:
    """Run a fake service in a process of its own, on a free port; yield host:port."""
    arguments = [
        part
        for name, value in asdict(truth).items()
        if name != "swap"
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    arguments += ["--swap"] if truth.swap else []
    command = [sys.executable, "-m", "loadtest.selftest.fake_service", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            if not url:
                raise RuntimeError("the fake service did not start")
            yield url
        finally:
            process.terminate()


def main(
    chunk_ms: Annotated[int, typer.Option()],
    service_ms: Annotated[float, typer.Option()],
    latency_ms: Annotated[float, typer.Option()],
    swap: Annotated[bool, typer.Option()] = False,
    name: Annotated[str, typer.Option()] = "",
) -> None:
    """Serve on a free port of this machine, and print the address."""
    use_real_time_priority()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(FakeRecognizer(Truth(chunk_ms, service_ms, latency_ms, swap, name))))


async def _serve(recognizer: FakeRecognizer) -> None:
    handlers: dict[str, Callable[[bytes, Any], Awaitable[bytes]]] = {
        "ModelInfer": recognizer.infer,
        "ServerMetadata": recognizer.metadata,
        "ModelConfig": recognizer.config,
    }
    # Without a deserializer the handlers get, and return, bytes.
    methods = {name: _grpc.unary_unary_rpc_method_handler(do) for name, do in handlers.items()}
    server = _grpc.aio.server(options=_ENDLESS_QUEUE)
    server.add_generic_rpc_handlers((_grpc.method_handlers_generic_handler(_SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


@lru_cache(maxsize=4096)
def _reply(text: bytes) -> bytes:
    count = 1 if text else 0
    tensors = {
        "TEXT": struct.pack("<I", len(text)) + text,
        "TOKENS": struct.pack("<i", zlib.crc32(text) & 0x7FFFFFFF) * count,
        "TOKEN_FRAMES": struct.pack("<i", 0) * count,
        "TOKEN_LOGPROBS": struct.pack("<f", -0.5) * count,
        "TOKEN_TEXT_LENGTHS": struct.pack("<i", len(text)) * count,
        "TOKEN_COUNT": struct.pack("<i", count),
    }
    output = _pb.ModelInferResponse.InferOutputTensor
    return _pb.ModelInferResponse(
        outputs=[output(name=name) for name in tensors], raw_output_contents=tensors.values()
    ).SerializeToString()


def _parameters(chunk_ms: int, chunk_samples: int) -> dict[str, str]:
    return {
        "contract_version": "1",
        "sample_rate_hz": str(_SAMPLE_RATE_HZ),
        "chunk_ms": str(chunk_ms),
        "chunk_samples": str(chunk_samples),
        "lead_samples": "0",
        "frame_ms": "80",
        "max_streams": "100000",
        "sequence_idle_ms": "30000",
        "checkpoint": "fake",
        "precision": "fp32",
        "runtime": "none",
    }


if __name__ == "__main__":
    typer.run(main)
