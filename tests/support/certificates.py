"""Certificates for TLS tests, made with openssl: an authority, a server's and a client's."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, in PEM."""

    path: Path
    key_path: Path

    @property
    def pem(self) -> bytes:
        """Return the certificate."""
        return self.path.read_bytes()

    @property
    def key_pem(self) -> bytes:
        """Return the key."""
        return self.key_path.read_bytes()


def make_authority(folder: Path, name: str) -> Certificate:
    """Write a certificate that signs others."""
    return _make(folder, name, "basicConstraints=critical,CA:TRUE")


def sign(
    authority: Certificate, name: str, alternative_names: str, usage: str | None = None
) -> Certificate:
    """Write a certificate for `alternative_names`, signed by an authority."""
    signer = ["-CA", str(authority.path), "-CAkey", str(authority.key_path)]
    if usage:
        signer += ["-addext", f"extendedKeyUsage={usage}"]
    return _make(authority.path.parent, name, f"subjectAltName={alternative_names}", *signer)


def _make(folder: Path, name: str, extension: str, *signer: str) -> Certificate:
    made = Certificate(folder / f"{name}.pem", folder / f"{name}-key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
    subject = ["-subj", f"/CN={name}", "-addext", extension]
    output = ["-keyout", str(made.key_path), "-out", str(made.path)]
    subprocess.run(
        [*command.split(), *subject, *signer, *output], check=True, capture_output=True, timeout=300
    )
    return made
