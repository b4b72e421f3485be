"""`python -m server drain`: stop a running server without cutting its streams.

It does what SIGTERM to `python -m server` does, for operators and for hooks that run before a
container is stopped.
"""

from __future__ import annotations

import os
import select
import signal

from .workspace import find_launcher


def drain_server(grpc_port: int) -> None:
    """Ask the server on `grpc_port` to drain, and return when it has ended.

    Raises:
        NoServer: no `python -m server` of this user on this machine serves on that port.
    """
    pid = find_launcher(grpc_port).pid
    process = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGTERM)
        select.select([process], [], [])
    finally:
        os.close(process)
