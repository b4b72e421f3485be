"""Open connections of the launcher to its own server, with the secrets of restricted protocols."""

from __future__ import annotations

from typing import Any

import grpc
import tritonclient.grpc as grpcclient
from tritonclient.grpc import InferenceServerClientPlugin

from .access import ADMIN_HEADER, TOKEN_HEADER, Access, Tls

# Triton's gRPC server looks for a restricted protocol's secret in headers of this prefix.
_HEADER_PREFIX = "triton-grpc-protocol-"


def open_client(url: str, access: Access) -> grpcclient.InferenceServerClient:
    """Connect to the server of this machine at `url`."""
    # A proxy for outgoing requests cannot reach a server of this machine.
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
    credentials = None
    if access.tls:
        credentials = _credentials(access.tls)
        # The certificate contains the name that clients use, not the address the server listens on.
        name = access.tls.names[0].replace("*", "server")
        options.append(("grpc.ssl_target_name_override", name))
    client = grpcclient.InferenceServerClient(url, creds=credentials, channel_args=options)
    shown = {TOKEN_HEADER: access.token, ADMIN_HEADER: access.admin_key}
    secrets = {f"{_HEADER_PREFIX}{header}": secret for header, secret in shown.items() if secret}
    if secrets:
        client.register_plugin(_Secrets(secrets))
    return client


class _Secrets(InferenceServerClientPlugin):
    """Adds the token and the operators' key to every request."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def __call__(self, request: Any) -> None:
        request.headers.update(self._headers)


def _credentials(tls: Tls) -> Any:
    certificate = tls.certificate.read_bytes()
    if tls.client_ca is None:
        return grpc.ssl_channel_credentials(certificate)
    return grpc.ssl_channel_credentials(certificate, tls.key.read_bytes(), certificate)
