"""Control who may call the server: TLS, the clients' token, the operators' key, closed protocols.

Triton has no users. It compares one header per protocol with a secret: a token gives access to all
models, a key to the model repository. Protocols that no client needs are closed with a secret that
nobody knows: through shared memory a caller could read other people's audio, and through logging
and trace change the server's settings.
"""

from __future__ import annotations

import re
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import BadAccess

TOKEN_HEADER = "token"
ADMIN_HEADER = "admin-key"
"""Triton expects `triton-grpc-protocol-<header>` over gRPC, and `<header>` over HTTP."""
_CLOSED_HEADER = "closed"

_CLOSED = ("shared-memory", "logging", "trace")
_USED = ("inference", "metadata", "model-config", "statistics")
_REPOSITORY = "model-repository"

_SECRET = re.compile(r"[A-Za-z0-9._~-]{16,}")
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}")


@dataclass(frozen=True)
class Tls:
    """The server's certificate; with `client_ca`, clients need one that it has signed."""

    certificate: Path
    key: Path
    client_ca: Path | None
    names: tuple[str, ...]
    """The names of the server in its certificate."""


@dataclass(frozen=True)
class Access:
    """The credentials that callers must present; by default none."""

    tls: Tls | None = None
    token: str | None = None
    admin_key: str | None = None

    def check(self, host: str, *, model_control: bool, http: bool) -> None:
        """Raise BadAccess if these credentials contradict the other options of the server."""
        if model_control and not self.admin_key and not is_loopback(host):
            raise BadAccess(
                "--model-control lets a caller run any Python code as the user of the server, and "
                f"{host} is not a loopback address: give a key with --admin-key-file"
            )
        if self.admin_key and not model_control:
            raise BadAccess("--admin-key-file guards --model-control: give both or neither")
        if self.tls and http:
            raise BadAccess("Triton's HTTP has no TLS: leave out --http-port or --tls-certificate")

    def warnings(self, host: str) -> list[str]:
        """Return warnings for the operator of a server on `host`."""
        if is_loopback(host) or (self.tls and self.tls.client_ca):
            return []
        if not self.token:
            return [
                f"anyone who reaches {host} can use the recognizers: see --token-file and "
                "--tls-client-ca"
            ]
        return [] if self.tls else ["tokens and speech are not encrypted: see --tls-certificate"]

    def flags(self, folder: Path, *, http: bool) -> list[str]:
        """Return Triton's flags; files that they name are written to `folder`."""
        groups: list[tuple[tuple[str, ...], str, str]] = [
            (_CLOSED, _CLOSED_HEADER, secrets.token_hex(32))
        ]
        if self.admin_key:
            groups.append(((_REPOSITORY,), ADMIN_HEADER, self.admin_key))
        if self.token:
            # Without a key the repository only lists names, since --model-control needs one.
            used = _USED if self.admin_key else (*_USED, _REPOSITORY)
            groups.append((used, TOKEN_HEADER, self.token))
        options = ["--grpc-restricted-protocol", *(["--http-restricted-api"] if http else [])]
        restrictions = [
            f"{option}={','.join(protocols)}:{header}={secret}"
            for option in options
            for protocols, header, secret in groups
        ]
        return [*restrictions, *(_tls_flags(self.tls, folder) if self.tls else [])]

    def record(self) -> dict[str, Any]:
        """Return the fields as JSON, for `from_record`."""
        record = asdict(self)
        if self.tls is not None:
            files = ("certificate", "key", "client_ca")
            paths = {name: getattr(self.tls, name) for name in files}
            record["tls"] |= {name: path and str(path.absolute()) for name, path in paths.items()}
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Access:
        """Return the access that `record` has described."""
        tls = record["tls"]
        if tls is not None:
            client_ca = tls["client_ca"] and Path(tls["client_ca"])
            names = tuple(tls["names"])
            tls = Tls(Path(tls["certificate"]), Path(tls["key"]), client_ca, names)
        return cls(tls, record["token"], record["admin_key"])


OPEN = Access()


def is_loopback(host: str) -> bool:
    """Return whether `host` can be reached from this machine only."""
    return _LOOPBACK.fullmatch(host) is not None


def read_access(
    *,
    certificate: Path | None = None,
    key: Path | None = None,
    client_ca: Path | None = None,
    token_file: Path | None = None,
    admin_key_file: Path | None = None,
) -> Access:
    """Read the files that the command line names; raise BadAccess."""
    return Access(
        _read_tls(certificate, key, client_ca),
        None if token_file is None else _read_secret(token_file),
        None if admin_key_file is None else _read_secret(admin_key_file),
    )


def _read_secret(path: Path) -> str:
    secret = _read(path).decode(errors="replace").strip()
    if not _SECRET.fullmatch(secret):
        raise BadAccess(
            f"{path} must hold one secret of at least 16 letters, digits or the characters ._~-, "
            f"found {len(secret)} characters; `openssl rand -hex 32` makes one"
        )
    return secret


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadAccess(f"cannot read {path}: {error.strerror}") from error


def _read_tls(certificate: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise BadAccess("TLS needs both --tls-certificate and --tls-key")
    for path in filter(None, (certificate, key, client_ca)):
        _read(path)
    try:
        if client_ca is not None:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise BadAccess(f"{client_ca} holds no certificate in PEM: {error}") from error
    return Tls(certificate, key, client_ca, _names(certificate, key, mutual=client_ca is not None))


def _names(certificate: Path, key: Path, *, mutual: bool) -> tuple[str, ...]:
    """Return the names that the certificate is valid for, as seen in an in-memory handshake.

    The handshake also shows that the key belongs to the certificate, and that it has not expired.
    For mutual TLS the client presents the same certificate, as the launcher does to its own server.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # The certificate itself is trusted, not its issuer.
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        server.load_cert_chain(certificate, key, password=_refuse_password)
        client.load_verify_locations(certificate)
        if mutual:
            server.verify_mode = ssl.CERT_REQUIRED
            server.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            server.load_verify_locations(certificate)
            client.load_cert_chain(certificate, key, password=_refuse_password)
        peer = _peer_certificate(server, client)
    except ssl.SSLError as error:
        raise BadAccess(
            f"{certificate} and {key} must be a valid certificate and its key, in PEM and without "
            f"a password{', valid for clients, too' if mutual else ''}: {error}"
        ) from error
    names = tuple(str(name) for kind, name in peer if kind in ("DNS", "IP Address"))
    if not names:
        raise BadAccess(f"{certificate} names no host: it needs a subjectAltName")
    return names


def _peer_certificate(server: ssl.SSLContext, client: ssl.SSLContext) -> list[tuple[str, str]]:
    """Return the alternative names of the server, as the client sees them."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = list(sides)
    while waiting:
        for side in tuple(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
    certificate = sides[0].getpeercert() or {}
    return list(certificate.get("subjectAltName", ()))  # pyright: ignore


def _refuse_password() -> str:
    """Keep OpenSSL from asking for a password on the terminal."""
    return ""


def _tls_flags(tls: Tls, folder: Path) -> list[str]:
    flags = [
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={tls.certificate.absolute()}",
        f"--grpc-server-key={tls.key.absolute()}",
    ]
    if tls.client_ca is None:
        return flags
    # The launcher checks its own server with the server's certificate.
    accepted = folder / "clients.pem"
    accepted.write_bytes(tls.client_ca.read_bytes() + b"\n" + tls.certificate.read_bytes())
    return [*flags, "--grpc-use-ssl-mutual=true", f"--grpc-root-cert={accepted}"]
