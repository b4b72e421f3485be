"""Write chunks as requests to Triton, and read text and tokens from its replies.

The messages are built from tritonclient's generated protobuf classes, without its `InferInput`
objects, so that a chunk costs a few microseconds and both clients share the code.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

from ._chunker import Chunk
from ._errors import ServerFailed, UnsupportedServer
from ._server_info import Head, OfflineInfo
from ._transcript import Label, Token

# The generated protobuf classes have no types.
_pb: Any = service_pb2

_ADAPTER = "adapter"


class RequestWriter:
    """Writes the requests of one stream.

    Each request is a copy of a template. Reusing one message for every chunk would grow its arena,
    which protobuf frees only with the message.
    """

    def __init__(
        self,
        stream_id: int,
        chunk_samples: int,
        queue_s: float,
        ensemble: str,
        tag: str = "",
        adapter: str = "",
    ) -> None:
        start = _pb.ModelInferRequest(model_name=ensemble, id=tag)
        start.inputs.add(name="AUDIO", datatype="FP32", shape=[1, chunk_samples])
        start.inputs.add(name="AUDIO_LENGTH", datatype="INT32", shape=[1, 1])
        start.parameters["sequence_id"].int64_param = stream_id
        self._next = _copy(start)
        start.parameters["sequence_start"].bool_param = True
        # Triton queues a START without limit unless the request itself sets a timeout.
        start.parameters["timeout"].int64_param = round(queue_s * 1e6)
        if adapter:
            start.parameters[_ADAPTER].string_param = adapter
        self._start = start
        self._silence = bytes(4 * chunk_samples)

    def write(self, chunk: Chunk, *, first: bool) -> Any:
        """Return the ModelInferRequest for `chunk`."""
        request = _copy(self._start if first else self._next)
        if chunk.last:
            request.parameters["sequence_end"].bool_param = True
        request.raw_input_contents.extend((chunk.audio, struct.pack("<i", chunk.length)))
        return request

    def write_end(self) -> Any:
        """Return the request that ends the stream without more audio."""
        return self.write(Chunk(self._silence, 0, last=True), first=False)


def piece_request(samples: npt.NDArray[np.float32], bucket_samples: int) -> Any:
    """Return a ModelInferRequest for `samples` [n], padded with zeros to the bucket.

    It has no address yet.
    """
    request = _pb.ModelInferRequest()
    request.inputs.add(name="AUDIO", datatype="FP32", shape=[1, bucket_samples])
    request.inputs.add(name="AUDIO_LENGTH", datatype="INT32", shape=[1, 1])
    padded = np.zeros(bucket_samples, dtype="<f4")
    padded[: samples.size] = samples
    request.raw_input_contents.extend((padded.tobytes(), struct.pack("<i", samples.size)))
    return request


def address_piece(request: Any, info: OfflineInfo) -> None:
    """Address a request to a recognizer, replacing any earlier address."""
    request.model_name = info.ensemble
    request.ClearField("parameters")
    if info.adapter:
        request.parameters[_ADAPTER].string_param = info.adapter


def read_reply(reply: Any) -> tuple[str, tuple[Token, ...]]:
    """Return TEXT and the tokens of a ModelInferResponse; raise UnsupportedServer."""
    try:
        tensors = _tensors(reply)
        text = _string(tensors["TEXT"])
        count = int.from_bytes(tensors["TOKEN_COUNT"], "little")
        if not count and not text:
            return "", ()
        ids = _row(tensors["TOKENS"], count, "i")
        frames = _row(tensors["TOKEN_FRAMES"], count, "i")
        logprobs = _row(tensors["TOKEN_LOGPROBS"], count, "f")
        lengths = _row(tensors["TOKEN_TEXT_LENGTHS"], count, "i")
    except (KeyError, ValueError, struct.error) as error:
        raise UnsupportedServer(f"a reply breaks the contract: {error!r}") from error
    if sum(lengths) != len(text) or min(lengths, default=0) < 0:
        raise UnsupportedServer(
            f"TOKEN_TEXT_LENGTHS {lengths} do not add up to the {len(text)} characters of TEXT"
        )
    ends = accumulate(lengths)
    pieces = (text[end - length : end] for end, length in zip(ends, lengths, strict=True))
    return text, tuple(map(Token, ids, pieces, frames, logprobs))


def read_labels(reply: Any, heads: Sequence[Head]) -> dict[str, Label]:
    """Return the label of each head in a ModelInferResponse.

    Raises:
        ServerFailed: The heads failed on the chunk.
        UnsupportedServer: The reply breaks the contract.
    """
    if not heads:
        return {}
    try:
        tensors = _tensors(reply)
        chosen = _row(tensors["LABELS"], len(heads), "i")
        likely = _row(tensors["LABEL_PROBS"], len(heads), "f")
        if min(chosen) < 0:
            raise ServerFailed("the heads failed on the last chunk; the server's log says why")
        return {
            head.name: Label(head.labels[label], probability)
            for head, label, probability in zip(heads, chosen, likely, strict=True)
        }
    except (KeyError, IndexError, ValueError, struct.error) as error:
        raise UnsupportedServer(f"a reply breaks the contract: {error!r}") from error


def _tensors(reply: Any) -> dict[str, bytes]:
    return {
        tensor.name: raw
        for tensor, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


def _copy(request: Any) -> Any:
    copy = _pb.ModelInferRequest()
    copy.CopyFrom(request)
    return copy


def _string(raw: bytes) -> str:
    """Decode the only element of a BYTES tensor: 4 bytes of length, then UTF-8."""
    (length,) = struct.unpack_from("<I", raw)
    return raw[4 : 4 + length].decode()


def _row(raw: bytes, count: int, kind: str) -> tuple[Any, ...]:
    return struct.unpack_from(f"<{count}{kind}", raw)
