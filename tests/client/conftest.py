"""Fixtures of the client's tests: one Triton with the fake recognizer for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import earshot
import pytest

from server import launch
from tests.support.fake_recognizer import FakeRecognizer, write_repository


@pytest.fixture(scope="session")
def running_recognizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeRecognizer]:
    """Started once: a start takes seconds."""
    folder = tmp_path_factory.mktemp("fake_recognizer")
    log = folder / "chunks.jsonl"
    with launch.running(write_repository(folder / "models", log)) as triton:
        yield FakeRecognizer(triton.grpc_url, log)


@pytest.fixture
def server(running_recognizer: FakeRecognizer) -> Iterator[FakeRecognizer]:
    """The fake recognizer; however a test ends its streams, END must have reached the server."""
    yield running_recognizer
    assert not running_recognizer.streams_left_open()


@pytest.fixture
def client(server: FakeRecognizer) -> Iterator[earshot.Client]:
    """A client of the fake recognizer."""
    with earshot.connect(server.url) as client:
        yield client
