"""A live stream of the load generator sends what the client sends, and reads what it reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import earshot
import gevent
import grpc
import numpy as np
import pytest

from loadtest.audio.scripts import Script
from loadtest.live.exchange import Answer, Service
from tests.support import fake_recognizer
from tests.support.certificates import make_authority, sign
from tests.support.fake_triton import FakeTriton, fake_triton

RATE_HZ = fake_recognizer.RATE_HZ
FIRST, CHUNK = fake_recognizer.FIRST, fake_recognizer.CHUNK_SAMPLES
SAMPLES = np.random.default_rng(7).uniform(-1, 1, FIRST + 3 * CHUNK + 500).astype(np.float32)
SCRIPT = Script(SAMPLES, None)


class Recorder(FakeTriton):
    """Keeps the requests and their headers."""

    def __init__(self, models: dict[str, dict[str, str]]) -> None:
        super().__init__(models)
        self.answer.set()
        self.answer_headers = (("earshot-replica", "b"),)
        self.hear = lambda index: [(index, f"w{index} ", index), (9, "é", index)]
        self.requests: list[Any] = []
        self.deadlines_s: list[int] = []
        self.refusal = ""
        self.spoils_text = False

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        # All are multiples of 5 s, from which a busy machine may take some time.
        self.deadlines_s.append(5 * round(context.time_remaining() / 5))
        if self.refusal:
            context.abort(grpc.StatusCode.UNAVAILABLE, self.refusal)
        reply = super().ModelInfer(request, context)
        if self.spoils_text:
            reply.raw_output_contents[0] = b"\1\0\0\0x"
        return reply

    def take(self) -> tuple[list[Any], list[dict[str, str]], list[int]]:
        """Return and forget what has come, without what is random."""
        for request in self.requests:
            request.id = request.id and "an id"
            request.parameters["sequence_id"].int64_param = 1
        headers = [
            {name: (name == "earshot-replica" and value) or "" for name, value in each.items()}
            for each in self.headers
        ]
        for each in headers:
            each.pop("user-agent", None)
        taken = self.requests, headers, self.deadlines_s
        self.requests, self.headers, self.deadlines_s = [], [], []
        return taken


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    monkeypatch.setattr("tests.support.fake_triton.FakeTriton", Recorder)
    with fake_triton(fake_recognizer.PARAMETERS) as fake:
        assert isinstance(fake, Recorder)
        yield fake


@pytest.fixture
def service(fake: Recorder) -> Iterator[Service]:
    service = Service(fake.url, None, [SCRIPT])
    yield service
    service.close()


def play(service: Service, chunks: int, end: int) -> list[Answer]:
    with service.stream(service.scripts[0]) as stream:
        answers = [stream.send() for _ in range(chunks)]
        return [*answers, stream.end(FIRST + (chunks - 1) * CHUNK, end)]


@pytest.mark.parametrize("end", [len(SAMPLES), FIRST + 2 * CHUNK, FIRST + 700])
def test_requests_are_those_of_the_client(fake: Recorder, service: Service, end: int) -> None:
    with earshot.connect(fake.url) as client:
        with client.stream(sample_rate_hz=RATE_HZ) as stream:
            expected = [*stream.send(SAMPLES[:end]), *stream.end()]
        sent_by_client = fake.take()
    answers = play(service, 1 + (end - FIRST) // CHUNK, end)
    assert fake.take() == sent_by_client
    assert [answer.text for answer in answers] == [result.text for result in expected]
    tokens = [tuple(token.id for token in result.tokens) for result in expected]
    assert [answer.tokens for answer in answers] == tokens


def test_certificates_and_the_token_of_the_environment_are_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = make_authority(tmp_path, "authority")
    server = sign(authority, "server", "IP:127.0.0.1")
    client = sign(authority, "client", "DNS:client")
    credentials = grpc.ssl_server_credentials(
        [(server.key_pem, server.pem)], authority.pem, require_client_auth=True
    )
    monkeypatch.setenv("EARSHOT_TOKEN", "secret")
    monkeypatch.setenv("EARSHOT_ROOT_CERTIFICATES", str(authority.path))
    monkeypatch.setenv("EARSHOT_CERTIFICATE", str(client.path))
    monkeypatch.setenv("EARSHOT_KEY", str(client.key_path))
    with fake_triton(fake_recognizer.PARAMETERS, credentials) as fake:
        fake.answer.set()
        service = Service(fake.url, None, [SCRIPT])
        with service.stream(service.scripts[0]) as stream:
            stream.send()
        service.close()
    assert fake.headers[0]["triton-grpc-protocol-token"] == "secret"


def test_a_stream_that_is_left_is_ended_after_its_answer(fake: Recorder, service: Service) -> None:
    fake.answer.clear()

    def leave() -> None:
        with service.stream(service.scripts[0]) as stream:
            stream.send()

    leaving = gevent.spawn(leave)
    while not fake.requests:
        gevent.sleep(0.01)
    leaving.kill()
    gevent.sleep(0.05)
    assert len(fake.requests) == 1
    fake.answer.set()
    with gevent.Timeout(60):
        while len(fake.requests) < 2:
            gevent.sleep(0.01)
    assert fake.requests[1].parameters["sequence_end"].bool_param
    same = {request.parameters["sequence_id"].int64_param for request in fake.requests}
    assert len(same) == 1


def test_a_failure_is_explained_as_by_the_client(fake: Recorder, service: Service) -> None:
    fake.refusal = "holds 64 live streams and all are taken"
    with (
        pytest.raises(earshot.ServerBusy, match="64 live streams"),
        service.stream(service.scripts[0]) as stream,
    ):
        stream.send()


def test_an_answer_that_breaks_the_contract_is_an_error(fake: Recorder, service: Service) -> None:
    fake.spoils_text = True
    with (
        pytest.raises(earshot.UnsupportedServer, match="do not add up"),
        service.stream(service.scripts[0]) as stream,
    ):
        stream.send()
