"""Requests have the form that Triton needs; replies keep the contract, or raise."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from earshot import Head, Label, ServerFailed, Token, UnsupportedServer
from earshot._chunker import Chunk
from earshot._server_info import read_offline_info
from earshot._wire import RequestWriter, address_piece, piece_request, read_labels, read_reply
from tritonclient.grpc import service_pb2

from tests.support.fake_triton import OFFLINE

# The generated protobuf classes carry no types.
_pb: Any = service_pb2

MAX_TOKENS = 4
ADAPTED = OFFLINE | {"contract_version": "2", "adapter": "clinic"}


def test_only_the_first_request_starts_and_waits_for_a_place() -> None:
    writer = RequestWriter(2**63 - 1, chunk_samples=2, queue_s=1.5, ensemble="asr")
    chunk = Chunk(struct.pack("<2f", 0.5, -0.5), 2, last=False)
    first, second = writer.write(chunk, first=True), writer.write(chunk, first=False)
    assert first.parameters["sequence_id"].int64_param == 2**63 - 1
    assert first.parameters["sequence_start"].bool_param
    assert first.parameters["timeout"].int64_param == 1_500_000
    assert set(second.parameters) == {"sequence_id"}
    assert [tuple(tensor.shape) for tensor in second.inputs] == [(1, 2), (1, 1)]
    assert list(second.raw_input_contents) == [chunk.audio, b"\x02\0\0\0"]


def test_the_first_request_names_the_adapter() -> None:
    writer = RequestWriter(1, chunk_samples=2, queue_s=1, ensemble="asr", adapter="clinic")
    chunk = Chunk(bytes(8), 2, last=False)
    first, second = writer.write(chunk, first=True), writer.write(chunk, first=False)
    assert first.parameters["adapter"].string_param == "clinic"
    assert "adapter" not in second.parameters


def test_every_piece_names_the_adapter_of_its_recognizer() -> None:
    request = piece_request(np.ones(2, np.float32), bucket_samples=4)
    clinic = read_offline_info("url", "triton", ADAPTED, name="clinic")
    address_piece(request, clinic)
    assert request.model_name == "clinic_asr_offline"
    assert request.parameters["adapter"].string_param == "clinic"
    address_piece(request, replace(clinic, name="clinic_v2", adapter="clinic_v2"))
    assert request.model_name == "clinic_v2_asr_offline"
    assert request.parameters["adapter"].string_param == "clinic_v2"
    address_piece(request, read_offline_info("url", "triton", OFFLINE))
    assert request.model_name == "asr_offline"
    assert not request.parameters
    assert list(request.raw_input_contents) == [struct.pack("<4f", 1, 1, 0, 0), b"\x02\0\0\0"]


def test_the_last_request_ends() -> None:
    writer = RequestWriter(1, chunk_samples=2, queue_s=1, ensemble="asr")
    only = writer.write(Chunk(bytes(8), 1, last=True), first=True)
    assert only.parameters["sequence_start"].bool_param
    assert only.parameters["sequence_end"].bool_param
    end = writer.write_end()
    assert end.parameters["sequence_end"].bool_param
    assert "sequence_start" not in end.parameters
    assert list(end.raw_input_contents) == [bytes(8), bytes(4)]


def reply(text: str, lengths: list[int], **replaced: bytes) -> Any:
    count = len(lengths)
    padding = [-1] * (MAX_TOKENS - count)
    encoded = text.encode()
    raw = {
        "TEXT": struct.pack("<I", len(encoded)) + encoded,
        "TOKENS": struct.pack("<4i", *range(count), *padding),
        "TOKEN_FRAMES": struct.pack("<4i", *range(7, 7 + count), *padding),
        "TOKEN_LOGPROBS": struct.pack("<4f", *[-0.5] * count, *padding),
        "TOKEN_TEXT_LENGTHS": struct.pack("<4i", *lengths, *padding),
        "TOKEN_COUNT": struct.pack("<i", count),
    } | replaced
    return _pb.ModelInferResponse(
        outputs=[_pb.ModelInferResponse.InferOutputTensor(name=name) for name in raw],
        raw_output_contents=raw.values(),
    )


def test_a_token_has_its_slice_of_the_text_in_characters() -> None:
    text, tokens = read_reply(reply("né 漢", [2, 0, 2]))
    assert text == "né 漢"
    assert tokens == (
        Token(0, "né", 7, -0.5),
        Token(1, "", 8, -0.5),
        Token(2, " 漢", 9, -0.5),
    )


def test_a_chunk_may_add_nothing() -> None:
    assert read_reply(reply("", [])) == ("", ())


@pytest.mark.parametrize(
    "broken",
    [
        reply("abc", [1, 1]),
        reply("abc", [4, -1]),
        reply("abc", [3], TOKENS=b""),
        reply("abc", [3], TEXT=b"\x01\0\0\0\xff"),
        reply("abc", [3], TEXT=b""),
        _pb.ModelInferResponse(),
        _pb.ModelInferResponse(raw_output_contents=[b""]),
    ],
    ids=["lengths", "negative", "short", "utf-8", "no text", "nothing", "nameless"],
)
def test_a_reply_that_breaks_the_contract_is_refused(
    broken: Any,
) -> None:
    with pytest.raises(UnsupportedServer):
        read_reply(broken)


def test_text_without_tokens_breaks_the_contract() -> None:
    with pytest.raises(UnsupportedServer):
        read_reply(reply("abc", []))


HEADS = (Head("size", ("", "small", "large")), Head("native", ("no", "yes")))


def test_each_head_has_its_label() -> None:
    labelled = reply(
        "", [], LABELS=struct.pack("<2i", 2, 0), LABEL_PROBS=struct.pack("<2f", 0.5, 1)
    )
    assert read_labels(labelled, HEADS) == {"size": Label("large", 0.5), "native": Label("no", 1)}


def test_a_recognizer_without_heads_labels_nothing() -> None:
    assert read_labels(reply("", []), ()) == {}


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ((3, 0), UnsupportedServer, "breaks the contract"),
        ((-2, -2), ServerFailed, "the heads failed on the last chunk"),
    ],
)
def test_labels_that_no_head_has(
    labels: tuple[int, int], error: type[Exception], message: str
) -> None:
    broken = reply("", [], LABELS=struct.pack("<2i", *labels), LABEL_PROBS=struct.pack("<2f", 1, 1))
    with pytest.raises(error, match=message):
        read_labels(broken, HEADS)


def test_a_reply_without_labels_breaks_the_contract() -> None:
    with pytest.raises(UnsupportedServer, match="breaks the contract"):
        read_labels(reply("", []), HEADS)
