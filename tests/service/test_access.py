"""A real Triton with closed doors: certificates, a token, an operators' key, closed protocols."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import earshot
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from earshot._sync import open_repository
from tritonclient.utils import InferenceServerException

from server.access import Access, read_access
from server.launch import Triton, running
from tests.support.certificates import Certificate, make_authority, sign
from tests.support.fake_recognizer import PATIENT, write_repository

pytestmark = pytest.mark.triton

TOKEN = "token-0123456789"
ADMIN_KEY = "admin-0123456789"
HOST = "127.0.0.1"
EARSHOT = [sys.executable, "-c", "from earshot._cli import app; app()"]


@dataclass(frozen=True)
class Guarded:
    """A server with every door closed, and what opens them."""

    triton: Triton
    authority: Certificate
    client: Certificate

    @property
    def credentials(self) -> dict[str, Any]:
        """Return the arguments of `connect` that the server accepts."""
        return {
            "root_certificates": self.authority.pem,
            "certificate": self.client.pem,
            "key": self.client.key_pem,
            "token": TOKEN,
        }


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    authority = make_authority(folder, "authority")
    server = sign(authority, "server", f"IP:{HOST}")
    access = Access(
        read_access(certificate=server.path, key=server.key_path, client_ca=authority.path).tls,
        token=TOKEN,
        admin_key=ADMIN_KEY,
    )
    repository = write_repository(folder / "models", folder / "log")
    with running(repository, model_control=True, access=access) as triton:
        yield Guarded(triton, authority, sign(authority, "client", "DNS:client"))


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    folder = tmp_path_factory.mktemp("default")
    with running(write_repository(folder / "models", folder / "log")) as triton:
        yield triton


def test_streams_run_behind_every_door(guarded: Guarded) -> None:
    audio = np.zeros(48000, np.int16)
    url, credentials = guarded.triton.grpc_url, guarded.credentials
    with earshot.connect(url, timeouts=PATIENT, **credentials) as client:
        assert client.is_ready()
        assert client.transcribe(audio, sample_rate_hz=16000).duration_s == 3

    async def transcribe() -> float:
        async with earshot.connect_async(url, timeouts=PATIENT, **credentials) as client:
            assert await client.is_ready()
            return (await client.transcribe(audio, sample_rate_hz=16000)).duration_s

    assert asyncio.run(transcribe()) == 3


@pytest.mark.parametrize("token", [None, "another-0123456789"])
def test_a_token_is_needed(guarded: Guarded, token: str | None) -> None:
    credentials: dict[str, Any] = guarded.credentials | {"token": token}
    with pytest.raises(earshot.AccessDenied, match="asks for a token"):
        earshot.connect(guarded.triton.grpc_url, **credentials)


def test_a_client_certificate_is_needed(guarded: Guarded, tmp_path: Path) -> None:
    url = guarded.triton.grpc_url
    without: dict[str, Any] = guarded.credentials | {"certificate": None, "key": None}
    stranger = sign(make_authority(tmp_path, "stranger"), "client", "DNS:client")
    foreign: dict[str, Any] = guarded.credentials | {
        "certificate": stranger.pem,
        "key": stranger.key_pem,
    }
    plain: dict[str, Any] = {"token": TOKEN}
    for credentials in (without, foreign, plain):
        with pytest.raises(earshot.ConnectionFailed):
            earshot.connect(url, **credentials)


def test_the_repository_is_for_operators(guarded: Guarded) -> None:
    with (
        open_repository(guarded.triton.grpc_url, **guarded.credentials) as repository,
        pytest.raises(earshot.AccessDenied, match="asks for the operators' key"),
    ):
        repository.load("")
    credentials: dict[str, Any] = guarded.credentials | {"admin_key": ADMIN_KEY}
    with open_repository(guarded.triton.grpc_url, **credentials) as repository:
        assert [status.state for status in repository.statuses()] == ["READY"]


def test_clients_find_a_recognizer_without_the_operators_key(guarded: Guarded) -> None:
    with pytest.raises(earshot.UnsupportedServer, match="no model 'clinic'; it serves default"):
        earshot.connect(guarded.triton.grpc_url, model="clinic", **guarded.credentials)


def test_the_command_line_takes_the_same(guarded: Guarded) -> None:
    command = [*EARSHOT, "info", "--json"]
    command += ["--url", guarded.triton.grpc_url, "--token", TOKEN]
    command += ["--root-certificates", str(guarded.authority.path)]
    command += ["--certificate", str(guarded.client.path), "--key", str(guarded.client.key_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ready"] is True
    command[command.index(TOKEN)] = "another-0123456789"
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "asks for a token" in done.stderr


CLOSED: dict[str, Callable[[grpcclient.InferenceServerClient], Any]] = {
    "shared memory": lambda client: client.get_system_shared_memory_status(),
    "register": lambda client: client.register_system_shared_memory("name", "/key", 16),
    "logging": lambda client: client.update_log_settings({"log_verbose_level": 1}),
    "log settings": lambda client: client.get_log_settings(),
    "trace": lambda client: client.update_trace_settings(None, {"trace_level": ["TIMESTAMPS"]}),
}


@pytest.mark.parametrize("call", CLOSED.values(), ids=CLOSED.keys())
def test_protocols_that_no_client_needs_are_closed(
    default: Triton, call: Callable[[grpcclient.InferenceServerClient], Any]
) -> None:
    with (
        grpcclient.InferenceServerClient(default.grpc_url) as client,
        pytest.raises(InferenceServerException, match="protocol is restricted"),
    ):
        call(client)


def test_models_cannot_be_loaded_by_default(default: Triton) -> None:
    with grpcclient.InferenceServerClient(default.grpc_url) as client:
        assert client.get_model_repository_index() is not None
        with pytest.raises(InferenceServerException, match="load / unload is not allowed"):
            client.load_model("mine", files={"file:1/model.py": b""}, config="{}")


def test_speech_in_shared_memory_is_private(default: Triton) -> None:
    regions = list(Path("/dev/shm").glob(f"{default.log_path.parent.name}*"))
    assert regions
    assert {region.stat().st_mode & 0o777 for region in regions} == {0o600}


def test_a_server_with_tls_alone(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, "authority")
    server = sign(authority, "server", "DNS:*.speech.example")
    access = read_access(certificate=server.path, key=server.key_path)
    repository = write_repository(tmp_path / "models", tmp_path / "log")
    with running(repository, access=access) as triton:
        # Ready, so the launcher has reached it; a client looks for the name that it dials.
        with pytest.raises(earshot.ConnectionFailed):
            earshot.connect(triton.grpc_url, root_certificates=authority.pem)
        with pytest.raises(earshot.ConnectionFailed):
            earshot.connect(triton.grpc_url)
