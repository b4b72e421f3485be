"""Live users of the load generator reach a server through real proxies, as the client does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import gevent
import pytest

from loadtest.audio.scripts import Script
from loadtest.live.exchange import Service
from server.launch import running
from tests.support import fake_recognizer
from tests.support.envoy import envoy
from tests.support.fake_triton import FakeTriton, fake_triton
from tests.support.proxies import haproxy, nginx

STREAMS = 30
CHUNKS = 5
SAMPLES = fake_recognizer.noise(fake_recognizer.FIRST + CHUNKS * fake_recognizer.CHUNK_SAMPLES)
Proxy = Callable[[str, Path, str], AbstractContextManager[str]]
REPLICAS = ("one", "two")
PROXIES: dict[str, tuple[Proxy, str]] = {
    "nginx": (nginx, ""),
    "nginx ends connections after some requests": (nginx, "keepalive_requests 7;"),
    "nginx takes few requests at a time": (nginx, "http2_max_concurrent_streams 3;"),
    "HAProxy": (haproxy, ""),
}


@pytest.fixture
def fake() -> Iterator[FakeTriton]:
    with fake_triton(fake_recognizer.PARAMETERS) as fake:
        fake.answer.set()
        fake.hear = lambda index: [(index, f"{index} ", index)]
        yield fake


@pytest.mark.parametrize(("proxy", "settings"), PROXIES.values(), ids=PROXIES)
def test_streams_go_through(fake: FakeTriton, proxy: Proxy, settings: str, tmp_path: Path) -> None:
    with proxy(fake.url, tmp_path, settings) as url:
        texts = play_all(url)
    assert texts == ["0 1 2 3 4 5 6 "] * STREAMS


@pytest.mark.triton
def test_streams_keep_their_replica_behind_envoy(tmp_path: Path) -> None:
    write = fake_recognizer.write_repository
    with ExitStack() as stack:
        tritons = [
            stack.enter_context(running(write(tmp_path / name, tmp_path / f"{name}.log")))
            for name in REPLICAS
        ]
        proxy = stack.enter_context(envoy(tmp_path, [triton.grpc_url for triton in tritons]))
        texts = play_all(proxy.url)
    assert texts == [" ".join(fake_recognizer.expected_words(SAMPLES))] * STREAMS
    assert all((tmp_path / f"{name}.log").stat().st_size for name in REPLICAS)


def play_all(url: str) -> list[str]:
    """Play all streams side by side; return their texts."""
    timeouts = replace(fake_recognizer.PATIENT, resume_s=0)
    service = Service(url, None, [Script(SAMPLES, None)], timeouts)

    def play() -> str:
        with service.stream(service.scripts[0]) as stream:
            answers = [stream.send() for _ in range(CHUNKS + 1)]
            answers.append(stream.end(len(SAMPLES), len(SAMPLES)))
        return "".join(answer.text for answer in answers)

    playing = [gevent.spawn(play) for _ in range(STREAMS)]
    gevent.joinall(playing, timeout=300, raise_error=True)
    service.close()
    return [each.get() for each in playing]
