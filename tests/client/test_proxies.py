"""The client behind real proxies: limits, idle connections, and servers that are gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import earshot
import pytest

from tests.support import fake_recognizer
from tests.support.fake_recognizer import CHUNK_SAMPLES, FIRST, PATIENT, RATE_HZ, noise, texts
from tests.support.fake_triton import OFFLINE, FakeTriton, fake_triton
from tests.support.proxies import free_port, haproxy, nginx

Proxy = Callable[[str, Path, str], AbstractContextManager[str]]


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    with fake_triton(fake_recognizer.PARAMETERS, models={"asr_offline": OFFLINE}) as fake:
        fake.answer.set()
        fake.hear = lambda index: [(1, f" {index}", index)]
        yield fake


def test_a_message_beyond_the_limit_of_nginx_is_told_and_not_repeated(
    fake: FakeTriton, tmp_path: Path
) -> None:
    audio = noise(20 * RATE_HZ)  # 1.9 MB with its padding; the default limit is 1 MB
    with nginx(fake.url, tmp_path) as url, earshot.connect(url) as client:
        with pytest.raises(earshot.MessageTooLarge, match=r"client_max_body_size") as caught:
            client.transcribe(audio, sample_rate_hz=RATE_HZ)
        assert "message of 19" in str(caught.value)
        client.transcribe(audio[: 4 * RATE_HZ], sample_rate_hz=RATE_HZ)
    refused = [
        line for line in (tmp_path / "access.log").read_text().splitlines() if " 413 " in line
    ]
    assert len(refused) == 1
    assert len(fake.pieces) == 1


LIMITS = {
    "nginx ends connections after some requests": (nginx, "keepalive_requests 7;"),
    "nginx ends idle connections": (nginx, "keepalive_timeout 200ms;"),
    "HAProxy ends idle connections": (
        haproxy,
        "timeout http-keep-alive 200ms\n  timeout client 300ms",
    ),
}


@pytest.mark.parametrize(("proxy", "settings"), LIMITS.values(), ids=LIMITS)
def test_a_stream_outlives_its_connections(
    fake: FakeTriton, tmp_path: Path, proxy: Proxy, settings: str
) -> None:
    with (
        proxy(fake.url, tmp_path, settings) as url,
        earshot.connect(url) as client,
        client.stream(sample_rate_hz=RATE_HZ) as stream,
    ):
        stream.send(noise(FIRST + 9 * CHUNK_SAMPLES))
        time.sleep(0.6)  # longer than the proxy keeps a connection
        stream.send(noise(9 * CHUNK_SAMPLES))
        transcript = stream.finish()
    assert texts(transcript.words) == [str(index) for index in range(20)]


@pytest.mark.parametrize("proxy", [nginx, haproxy])
def test_a_proxy_without_a_server_behind_it(tmp_path: Path, proxy: Proxy) -> None:
    with (
        proxy(f"127.0.0.1:{free_port()}", tmp_path, "") as url,
        pytest.raises(earshot.ConnectionFailed, match=f"no server at {url}"),
    ):
        earshot.connect(url)


@pytest.mark.parametrize("proxy", [nginx, haproxy])
def test_a_server_that_goes_behind_its_proxy(tmp_path: Path, proxy: Proxy) -> None:
    with ExitStack() as running:
        with fake_triton(fake_recognizer.PARAMETERS) as fake:
            fake.answer.set()
            url = running.enter_context(proxy(fake.url, tmp_path, ""))
            timeouts = earshot.Timeouts(resume_s=1)
            client = running.enter_context(earshot.connect(url, timeouts=timeouts))
            stream = client.stream(sample_rate_hz=RATE_HZ)
            stream.send(noise(FIRST))
        with pytest.raises(earshot.StreamLost):
            stream.send(noise(CHUNK_SAMPLES))
        with pytest.raises(earshot.ConnectionFailed):
            client.stream(sample_rate_hz=RATE_HZ).send(noise(FIRST))


def test_the_tag_of_a_stream_is_in_the_log_of_nginx(fake: FakeTriton, tmp_path: Path) -> None:
    settings = f"log_format tags '$http_x_request_id'; access_log {tmp_path}/tags.log tags;"
    options = earshot.StreamOptions(tag="call-17")
    with (
        nginx(fake.url, tmp_path, settings) as url,
        earshot.connect(url, timeouts=PATIENT) as client,
        client.stream(sample_rate_hz=RATE_HZ, options=options) as stream,
    ):
        stream.send(noise(FIRST))
    assert (tmp_path / "tags.log").read_text().splitlines().count("call-17") == 2
