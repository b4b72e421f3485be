"""`python -m server health`: exit with 0 if every stage of a server answers.

This is for health checks of containers, which have neither HTTP nor shell tools.
"""

from __future__ import annotations

from tritonclient.utils import InferenceServerException

from .canary import Canary
from .errors import Unhealthy
from .local_client import open_client
from .sent_canaries import SentCanaries
from .served_models import ServedModels
from .workspace import find_launcher

TIMEOUT_S = 10.0


def check_health(grpc_port: int) -> None:
    """Send chunks of silence through the server on `grpc_port` of this machine.

    Raises:
        NoServer: no `python -m server` of this user on this machine serves on that port.
        Unhealthy: a stage fails or hangs, or the server drains.
    """
    launcher = find_launcher(grpc_port)
    with open_client(launcher.grpc_url, launcher.access) as client:
        sent = SentCanaries(launcher.heartbeats)
        canary = Canary(client, launcher.canary_secret, sent, TIMEOUT_S)
        try:
            for _, failure in canary.failures(ServedModels(client).look()):
                raise Unhealthy(failure)
        except InferenceServerException as error:
            raise Unhealthy(f"no answer: {error}") from error


if __name__ == "__main__":  # the health check of 0.1.0, which must not succeed by doing nothing
    raise SystemExit("use: python -m server health --grpc-port PORT")
