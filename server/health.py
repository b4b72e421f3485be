"""`python -m server health`: exit with 0 if every stage of the server on a port answers.

For health checks of containers, where neither HTTP nor a shell's tools are at hand.
"""

from __future__ import annotations

from contextlib import closing

from .canary import Canary
from .errors import Unhealthy
from .repository import read_repository
from .workspace import find_launcher

TIMEOUT_S = 10.0


def check_health(grpc_port: int) -> None:
    """Send chunks of silence through the server on `grpc_port` of this machine.

    Raises:
        NoServer: no `python -m server` of this user and machine serves on that port.
        Unhealthy: a stage fails or hangs, or the server drains.
    """
    launcher = find_launcher(grpc_port)
    ensembles = read_repository(launcher.repository).ensembles
    with closing(Canary(launcher.grpc_url, ensembles, launcher.access, TIMEOUT_S)) as canary:
        failure = canary.failure()
    if failure is not None:
        raise Unhealthy(failure)
