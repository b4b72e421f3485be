"""Put a TCP proxy in front of a server, whose connections can go silent or be cut."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import Any

_BLOCK_BYTES = 65536


class TcpProxy:
    """Forwards connections to a server; `tcp_proxy` makes it."""

    def __init__(self, target: str, loop: asyncio.AbstractEventLoop) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._loop = loop
        self._port = 0
        self._listener: asyncio.Server | None = None
        self._flowing: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.StreamWriter] = []
        self._clients: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        """Return `host:port` of the proxy."""
        return f"127.0.0.1:{self._port}"

    def listen(self) -> None:
        """Accept connections, on the same port each time."""
        self._run(self._listen())

    def silence(self) -> None:
        """Stop forwarding on existing connections, but keep them open; new ones work."""
        self._run(self._silence())

    def cut(self) -> None:
        """Hang up, and refuse new connections until `listen`."""
        self._run(self._cut())

    def hang_up(self) -> None:
        """Close the connections of clients; new ones work.

        The server does not notice: Triton 2.51 may crash when a connection ends during its
        requests.
        """
        self._run(self._hang_up())

    def close(self) -> None:
        """Close everything."""
        self._run(self._close())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._forward, "127.0.0.1", self._port)
        self._port = self._listener.sockets[0].getsockname()[1]

    async def _silence(self) -> None:
        for task in self._flowing:
            task.cancel()
        self._flowing.clear()

    async def _hang_up(self) -> None:
        await self._silence()
        for writer in self._clients:
            writer.transport.abort()
        self._clients.clear()

    async def _cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
        await self._hang_up()

    async def _close(self) -> None:
        await self._cut()
        for writer in self._servers:
            writer.transport.abort()
        self._servers.clear()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._target)
        self._servers.append(up_writer)
        self._clients.append(writer)
        for source, sink in ((reader, up_writer), (up_reader, writer)):
            self._flowing.add(asyncio.ensure_future(_copy(source, sink)))


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while block := await source.read(_BLOCK_BYTES):
            sink.write(block)
            await sink.drain()
    except ConnectionError:
        pass
    sink.close()


@contextmanager
def tcp_proxy(target: str) -> Generator[TcpProxy]:
    """Run a proxy in front of the server at `target`, on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    proxy = TcpProxy(target, loop)
    try:
        proxy.listen()
        yield proxy
    finally:
        proxy.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
