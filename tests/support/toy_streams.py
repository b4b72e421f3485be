"""Streams of the toy repository, as a correct client sends them."""

from __future__ import annotations

import secrets
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient

from tests.support.toy_repository import CHUNK_SAMPLES

Answer = dict[str, float]


def constant(value: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A chunk whose sum is `value * CHUNK_SAMPLES`."""
    return np.full((1, CHUNK_SAMPLES), value, np.float32)


def new_id() -> int:
    """63 random bits, never 0: Triton takes 0 for "no sequence"."""
    return secrets.randbits(63) | 1


@dataclass
class Stream:
    """One stream; `send` does not wait, so that many streams can be in flight."""

    client: grpcclient.InferenceServerClient
    model: str = "toy_streaming"
    stream_id: int = field(default_factory=new_id)
    tag: str = ""
    parameters: dict[str, str] | None = None
    started: bool = False

    def send(
        self,
        audio: np.ndarray[Any, Any],
        *,
        length: int = CHUNK_SAMPLES,
        start: bool | None = None,
        end: bool = False,
        headers: dict[str, str] | None = None,
    ) -> Future[Answer]:
        """Send one chunk; START is set on the first one by default."""
        start = not self.started if start is None else start
        self.started = True
        answer: Future[Answer] = Future()
        self.client.async_infer(
            self.model,
            _inputs(audio, length),
            callback=lambda result, error: _settle(answer, result, error),
            request_id=self.tag,
            sequence_id=self.stream_id,
            sequence_start=start,
            sequence_end=end,
            headers=headers,
            parameters=self.parameters,
        )
        return answer

    def finish(self) -> None:
        """End the stream and wait until the server has freed it."""
        self.send(constant(0.0), length=0, end=True).result(timeout=60)


def _inputs(audio: np.ndarray[Any, Any], length: int) -> list[grpcclient.InferInput]:
    audio_input = grpcclient.InferInput("AUDIO", list(audio.shape), "FP32")
    audio_input.set_data_from_numpy(audio)
    length_input = grpcclient.InferInput("AUDIO_LENGTH", [1, 1], "INT32")
    length_input.set_data_from_numpy(np.array([[length]], np.int32))
    return [audio_input, length_input]


def _settle(answer: Future[Answer], result: Any, error: Exception | None) -> None:
    """Runs on a gRPC thread: what it raises must reach the test through the future."""
    try:
        if error is not None:
            raise error
        names = [output.name for output in result.get_response().outputs]
        answer.set_result({name: float(result.as_numpy(name)[0, 0]) for name in names})
    except Exception as failure:
        answer.set_exception(failure)
