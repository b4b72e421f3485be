"""Picks free ports and refuses taken ones before Triton trips over them."""

from __future__ import annotations

import socket

from .errors import PortInUse


def choose_port(host: str, wanted: int | None, purpose: str) -> int:
    """`wanted` if nobody listens there, or a free port if it is None."""
    with socket.socket() as probe:
        # As Triton does: a port that only lingers from an earlier server is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted or 0))
        except OSError as error:
            raise PortInUse(
                f"cannot listen on {host}:{wanted} for {purpose} ({error.strerror}); "
                f"stop what listens there or choose another --{purpose}-port"
            ) from error
        return int(probe.getsockname()[1])
