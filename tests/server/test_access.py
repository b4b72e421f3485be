"""Certificates, tokens and keys: what is refused before Triton starts, and how."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from server.access import Access, Tls, read_access
from server.errors import BadAccess
from tests.support.certificates import Certificate, make_authority, sign
from tests.support.project import PROJECT

SECRET = "0123456789abcdef"
TLS = Tls(Path("certificate"), Path("key"), None, ("name",))
MUTUAL = Tls(Path("certificate"), Path("key"), Path("ca"), ("name",))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_authority(tmp_path_factory.mktemp("authority"), "authority")


def test_the_names_are_those_of_the_certificate(authority: Certificate) -> None:
    server = sign(authority, "speech", "DNS:*.speech.example,IP:10.0.0.1")
    access = read_access(certificate=server.path, key=server.key_path, client_ca=authority.path)
    assert access.tls is not None
    assert access.tls.names == ("*.speech.example", "10.0.0.1")


def test_a_key_of_another_certificate_is_refused(authority: Certificate) -> None:
    server = sign(authority, "one", "DNS:one")
    with pytest.raises(BadAccess, match="must be a valid certificate and its key"):
        read_access(certificate=server.path, key=authority.key_path)


def test_mutual_tls_needs_a_certificate_for_clients(authority: Certificate) -> None:
    server = sign(authority, "serving", "DNS:one", usage="serverAuth")
    assert read_access(certificate=server.path, key=server.key_path).tls
    with pytest.raises(BadAccess, match="valid for clients, too"):
        read_access(certificate=server.path, key=server.key_path, client_ca=authority.path)


def test_a_certificate_without_names_is_refused(authority: Certificate) -> None:
    with pytest.raises(BadAccess, match="names no host"):
        read_access(certificate=authority.path, key=authority.key_path)


@pytest.mark.parametrize("secret", ["", "too short", "two words but long enough", "a=b:c" * 5])
def test_secrets_that_triton_would_not_read(tmp_path: Path, secret: str) -> None:
    path = tmp_path / "token"
    path.write_text(secret)
    with pytest.raises(BadAccess, match="at least 16 letters"):
        read_access(token_file=path)


def test_a_secret_may_end_with_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    assert read_access(token_file=path).token == SECRET


@pytest.mark.parametrize(
    ("access", "options", "message"),
    [
        (Access(), {"host": "0.0.0.0", "model_control": True}, "any Python code"),
        (Access(admin_key=SECRET), {}, "give both or neither"),
        (Access(TLS), {"http": True}, "HTTP has no TLS"),
    ],
)
def test_contradictions(access: Access, options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"host": "127.0.0.1", "model_control": False, "http": False}
    with pytest.raises(BadAccess, match=message):
        access.check(**(arguments | options))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_needs_nothing(host: str) -> None:
    Access().check(host, model_control=True, http=True)
    assert Access().warnings(host) == []


@pytest.mark.parametrize(
    ("access", "warning"),
    [
        (Access(), "anyone who reaches 10.0.0.1"),
        (Access(TLS), "anyone who reaches 10.0.0.1"),
        (Access(token=SECRET), "not encrypted"),
        (Access(TLS, token=SECRET), None),
        (Access(MUTUAL), None),
    ],
)
def test_open_doors_are_named(access: Access, warning: str | None) -> None:
    warnings = access.warnings("10.0.0.1")
    assert len(warnings) == (warning is not None)
    assert not warning or warning in warnings[0]


def test_a_wrong_file_exits_with_2(tmp_path: Path) -> None:
    command = ["--repository", str(tmp_path), "--token-file", str(tmp_path / "nowhere")]
    result = subprocess.run(
        [sys.executable, "-m", "server", *command],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2
    assert (
        result.stderr == f"error: cannot read {tmp_path / 'nowhere'}: No such file or directory\n"
    )
