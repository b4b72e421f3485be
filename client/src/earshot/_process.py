"""Refuse to use a client in a process that was forked: the threads of gRPC are not there."""

from __future__ import annotations

import os

from ._errors import StreamClosed


class HomeProcess:
    """The process in which a client was made."""

    def __init__(self) -> None:
        self._id = os.getpid()

    @property
    def is_here(self) -> bool:
        """Return whether the current process is the one in which the client was made."""
        return os.getpid() == self._id

    def check(self) -> None:
        """Raise StreamClosed in a process that was forked from that one."""
        if not self.is_here:
            raise StreamClosed(
                f"the client belongs to process {self._id}, and gRPC does not work in one that is "
                "forked from it: fork before the first `connect`, or start processes with "
                'multiprocessing.get_context("spawn")'
            )
