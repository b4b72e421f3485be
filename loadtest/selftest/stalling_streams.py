"""The process of live streams, stalling for 300 ms per second; see `stalling_locustfile.py`."""

from __future__ import annotations

import asyncio
import socket
import time

from loadtest.live.stream_process import prepare, serve

STALL_S = 0.3


async def stall_forever() -> None:
    """Hold up the event loop, as anything in the load generator that takes long would."""
    while True:
        await asyncio.sleep(1.0 - STALL_S)
        time.sleep(STALL_S)


async def main() -> None:
    """Play streams, and stall."""
    options, scripts = prepare()
    stalling = asyncio.create_task(stall_forever())
    await serve(socket.socket(fileno=0), scripts, options.model)
    stalling.cancel()


if __name__ == "__main__":
    asyncio.run(main())
