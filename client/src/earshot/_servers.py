"""The servers of a client, and which of them takes new streams."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from tritonclient.grpc import service_pb2

from ._failures import RpcFailure, is_draining
from ._handshake import Handshake, Served, handshake

# The generated protobuf classes have no types.
_pb: Any = service_pb2

READY_REQUEST = _pb.ServerReadyRequest()
READY_CHECK_S = 1.0
"""Interval at which a server is asked whether it is ready, if there is another to change to."""


class Servers:
    """The state of a client's servers, as its streams see it; servers are identified by number."""

    def __init__(self, targets: Sequence[str], model: str | None) -> None:
        self._targets = tuple(targets)
        self._model = model
        self.current = 0
        """The server that takes new streams."""
        self._served: dict[int, Served] = {}
        self._draining: set[int] = set()
        self._next_check_s = [0.0] * len(self._targets)

    @property
    def target(self) -> str:
        """Return `host:port` of the server that takes new streams."""
        return self._targets[self.current]

    @property
    def served(self) -> Served:
        """Return the recognizers of the server that takes new streams."""
        return self._served[self.current]

    def handshake(self, server: int, connect_s: float) -> Handshake:
        """Return the handshake with a server."""
        return handshake(self._targets[server], self._model, connect_s)

    def found(self, server: int, served: Served) -> None:
        """Note the recognizers of a server."""
        self._served[server] = served

    def others(self, server: int) -> Iterator[int]:
        """Yield all servers except `server`; servers that are draining come last."""
        others = [other for other in range(len(self._targets)) if other != server]
        return iter(sorted(others, key=self._draining.__contains__))

    def is_check_due(self, server: int) -> bool:
        """Return whether the caller must now ask `server` if it is ready."""
        now_s = time.monotonic()
        if len(self._targets) == 1 or now_s < self._next_check_s[server]:
            return False
        self._next_check_s[server] = now_s + READY_CHECK_S
        return True

    def checked(self, server: int, failure: RpcFailure | None) -> None:
        """Note the outcome of a readiness check: whether the server is about to stop."""
        if failure is None:
            self._draining.discard(server)
        elif is_draining(failure):
            self._draining.add(server)

    def should_leave(self, server: int) -> bool:
        """Return whether the streams of `server` should change to another one."""
        return server in self._draining and len(self._draining) < len(self._targets)
