"""A worker's end of its process of live streams; `stream_process.py` is the other end."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, ClassVar

from loadtest.live.packing import Received, pack
from loadtest.live.samples import Window
from loadtest.options import PROJECT, LoadOptions

_READ_BYTES = 65536


class StreamProcess:
    """A process that plays live streams; it ends with this one.

    Args:
        options: What is played.
    """

    module: ClassVar[str] = "loadtest.live.stream_process"
    """What runs there; the self-test has one that stalls."""

    def __init__(self, options: LoadOptions) -> None:
        arguments = ["--speech", str(options.speech.resolve()), "--talk-s"]
        arguments += [str(options.min_stream_s)]
        arguments += ["--model", options.model] if options.model else []
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, *arguments],
                stdin=theirs.fileno(),
                cwd=PROJECT,
            )

    def hold(self, users: int, url: str) -> None:
        """Keep so many live streams to the server at `url`."""
        self._send({"users": users, "url": url})

    def start(self, window: Window) -> None:
        """Let the streams run, and record a window."""
        self._send({"start": asdict(window)})

    def stop(self) -> None:
        """Let the streams end."""
        self._send({"stop": True})

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield what the process sends: first that it is ready, then batches of samples."""
        received = Received()
        while data := self._socket.recv(_READ_BYTES):
            yield from received.add(data)

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.sendall(pack(message))
