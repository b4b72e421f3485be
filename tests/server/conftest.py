"""A toy repository and one Triton that serves it to all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient

from server.launch import Triton, running
from tests.support.toy_repository import LONG_IDLE_S, write_toy_repository


@pytest.fixture
def toy_repository(tmp_path: Path) -> Path:
    """Write a new copy, which a test may damage; its streams do not expire in the test."""
    return write_toy_repository(tmp_path / "repository", max_idle_s=LONG_IDLE_S)


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """A running server."""
    with running(write_toy_repository(tmp_path_factory.mktemp("repository"))) as server:
        yield server


@pytest.fixture
def client(triton: Triton) -> Iterator[grpcclient.InferenceServerClient]:
    """A connection to the running server."""
    with grpcclient.InferenceServerClient(triton.grpc_url) as connection:
        yield connection
