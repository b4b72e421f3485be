"""Who gets through the deployed Envoy: certificates on both sides, keys and their limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import earshot
import grpc
import numpy as np
import pytest
from earshot._grpc import TOKEN_HEADER

from server.access import Access, read_access
from server.launch import running
from tests.support.certificates import Certificate, make_authority, sign
from tests.support.envoy import Envoy, envoy
from tests.support.fake_recognizer import PATIENT, write_repository
from tests.support.helm import CHART
from tests.support.launcher import wait_for

pytestmark = pytest.mark.triton

TOKEN = "token-of-the-replicas"
CLINIC, NEWSROOM, LATER = "key-of-the-clinic", "key-of-the-newsroom", "key-that-comes-later"
STARTS_PER_MINUTE = 4
OPTIONS = {
    "server.tokenSecret": "token",
    "server.tlsSecret": "replicas",
    "envoy.keysSecret": "keys",
    "envoy.startsPerMinute": STARTS_PER_MINUTE,
    "envoy.tls.secret": "tls",
    "envoy.tls.clientCertificates": "true",
}


@dataclass(frozen=True)
class Guarded:
    """Envoy with every door closed, and what opens them."""

    proxy: Envoy
    authority: Certificate
    client: Certificate

    def credentials(self, token: str | None = CLINIC) -> dict[str, Any]:
        """Return the arguments of `connect` that Envoy accepts, or with another key."""
        return {
            "root_certificates": self.authority.pem,
            "certificate": self.client.pem,
            "key": self.client.key_pem,
            "token": token,
            "timeouts": PATIENT,
        }


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    authority = make_authority(folder, "authority")
    inner = make_authority(folder, "inner")
    server = sign(inner, "server", "DNS:replicas.earshot.internal,IP:127.0.0.1")
    _mount(folder / "tls", sign(authority, "front", "IP:127.0.0.1"), authority)
    _mount(folder / "replicas", sign(inner, "envoy", "DNS:envoy"), inner)
    (folder / "token").mkdir()
    (folder / "token" / "token").write_text(TOKEN)
    (folder / "keys").mkdir()
    _write_keys(folder, CLINIC, NEWSROOM)
    access = Access(
        read_access(certificate=server.path, key=server.key_path, client_ca=inner.path).tls,
        token=TOKEN,
    )
    options = [part for name, value in OPTIONS.items() for part in ("--set", f"{name}={value}")]
    repository = write_repository(folder / "models", folder / "log")
    with (
        running(repository, access=access) as triton,
        envoy(folder, [triton.grpc_url], *options) as proxy,
    ):
        yield Guarded(proxy, authority, sign(authority, "client", "DNS:client"))


def _mount(folder: Path, certificate: Certificate, authority: Certificate) -> None:
    folder.mkdir()
    (folder / "tls.crt").write_bytes(certificate.pem)
    (folder / "tls.key").write_bytes(certificate.key_pem)
    (folder / "ca.crt").write_bytes(authority.pem)


def _write_keys(folder: Path, *keys: str) -> None:
    """Write the example of the chart with other keys, in one step as Kubernetes does."""
    head, separator, _ = (
        (CHART / "files" / "keys.example.yaml").read_text().partition("credentials:\n")
    )
    lines = [f"        - {{ client: client-{key}, key: {key} }}\n" for key in keys]
    partial = folder / "keys.partial"
    partial.write_text(head + separator + "".join(lines))
    partial.replace(folder / "keys" / "keys.yaml")


def test_a_stream_runs_behind_every_door(guarded: Guarded) -> None:
    audio = np.zeros(8000, np.int16)
    with earshot.connect(guarded.proxy.url, **guarded.credentials()) as client:
        assert client.transcribe(audio, sample_rate_hz=16000).duration_s == 0.5


@pytest.mark.parametrize("key", [None, "key-of-nobody", TOKEN])
def test_a_key_is_needed(guarded: Guarded, key: str | None) -> None:
    with pytest.raises(earshot.AccessDenied):
        earshot.connect(guarded.proxy.url, **guarded.credentials(key))


def test_a_certificate_is_needed(guarded: Guarded) -> None:
    without: dict[str, Any] = guarded.credentials() | {"certificate": None, "key": None}
    with pytest.raises(earshot.ConnectionFailed):
        earshot.connect(guarded.proxy.url, **without)


def test_each_key_has_its_own_limit_of_new_streams(guarded: Guarded) -> None:
    audio = np.zeros(800, np.int16)
    with earshot.connect(guarded.proxy.url, **guarded.credentials(NEWSROOM)) as client:
        for _ in range(STARTS_PER_MINUTE):
            client.transcribe(audio, sample_rate_hz=16000)
        with pytest.raises(earshot.ServerBusy):
            while True:  # on a slow machine a start is earned meanwhile
                client.transcribe(audio, sample_rate_hz=16000)
    with earshot.connect(guarded.proxy.url, **guarded.credentials(CLINIC)) as client:
        client.transcribe(audio, sample_rate_hz=16000)


def test_messages_have_a_limit(guarded: Guarded) -> None:
    """That of a replica is 2 GB; a file of any length comes in pieces that are shorter."""
    channel_credentials = grpc.ssl_channel_credentials(
        guarded.authority.pem, guarded.client.key_pem, guarded.client.pem
    )
    with grpc.secure_channel(guarded.proxy.url, channel_credentials) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        key = ((TOKEN_HEADER, CLINIC),)
        with pytest.raises(grpc.RpcError, match="Payload Too Large"):
            call(bytes(3 << 20), timeout=60, metadata=key)


def test_keys_come_and_go_without_a_restart(guarded: Guarded) -> None:
    _write_keys(guarded.proxy.folder, CLINIC, LATER)
    wait_for(lambda: _is_accepted(guarded, LATER))
    assert not _is_accepted(guarded, NEWSROOM)


def _is_accepted(guarded: Guarded, key: str) -> bool:
    try:
        earshot.connect(guarded.proxy.url, **guarded.credentials(key)).close()
    except earshot.AccessDenied:
        return False
    return True
