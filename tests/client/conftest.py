"""Fixtures of the client's tests: one Triton with the fake recognizer for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import earshot
import pytest

from server import launch
from tests.support.fake_recognizer import PATIENT, FakeRecognizer, write_repository
from tests.support.launcher import wait_for


@pytest.fixture(scope="session")
def running_recognizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeRecognizer]:
    """Started once: a start takes seconds."""
    folder = tmp_path_factory.mktemp("fake_recognizer")
    log = folder / "chunks.jsonl"
    with launch.running(write_repository(folder / "models", log)) as triton:
        yield FakeRecognizer(triton.grpc_url, log)


@pytest.fixture
def server(running_recognizer: FakeRecognizer) -> Iterator[FakeRecognizer]:
    """The fake recognizer; however a test ends its streams, END reaches the server.

    Only the chunks of the test count: what one has left behind is not the fault of the next.
    """
    server = running_recognizer.from_now_on()
    yield server
    wait_for(lambda: not server.streams_left_open())


@pytest.fixture
def client(server: FakeRecognizer) -> Iterator[earshot.Client]:
    """A client of the fake recognizer."""
    with earshot.connect(server.url, timeouts=PATIENT) as client:
        yield client
