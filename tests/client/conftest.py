"""Fixtures of the client's tests: one Triton with the stand-in for all tests that need a server."""

from __future__ import annotations

from collections.abc import Iterator

import earshot
import pytest

from server import launch
from tests.client.stand_in import StandIn, write_repository


@pytest.fixture(scope="session")
def running_stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """Started once: a start takes seconds."""
    folder = tmp_path_factory.mktemp("stand_in")
    log = folder / "chunks.jsonl"
    with launch.running(write_repository(folder / "models", log)) as triton:
        yield StandIn(triton.grpc_url, log)


@pytest.fixture
def server(running_stand_in: StandIn) -> Iterator[StandIn]:
    """The stand-in; however a test ends its streams, END must have reached the server."""
    yield running_stand_in
    assert not running_stand_in.streams_left_open()


@pytest.fixture
def client(server: StandIn) -> Iterator[earshot.Client]:
    """A client of the stand-in."""
    with earshot.connect(server.url) as client:
        yield client
