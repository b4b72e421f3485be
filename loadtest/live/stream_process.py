"""`python -m loadtest.live.stream_process`: the live streams of one Locust worker.

Locust's users are greenlets, and gRPC takes more than twice the CPU time per chunk under gevent
that it takes under asyncio. So a worker's users only count its streams; this process plays them.
Its standard input is a socket to the worker (see `streams.py`), with these messages:

    users, url              ->     so many live streams to this server
    start, a window         ->     they stream, samples are recorded
    stop                    ->     they end
                            <-     ready, once
                            <-     samples, as `SampleRecorder.take_batch` returns them

It ends when the worker does.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import earshot
import psutil

from loadtest.audio.recordings import load_clips
from loadtest.audio.scripts import Script, write_scripts
from loadtest.live.packing import Received, pack
from loadtest.live.player import StreamPlayer
from loadtest.live.priority import use_real_time_priority
from loadtest.live.samples import SampleBatch, SampleRecorder, Window

_PAUSE_S = 1.0
"""Before another try to reach the server."""
_READ_BYTES = 65536


class Streams:
    """The live streams of this process: as many at every moment as were asked for last.

    Args:
        scripts: What they play.
        model: Recognizer to use if the server has several.
        recorder: Takes their samples.
    """

    def __init__(
        self, scripts: Sequence[Script], model: str | None, recorder: SampleRecorder
    ) -> None:
        self._scripts = scripts
        self._model = model
        self._recorder = recorder
        self._url = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._client: earshot.AsyncClient | None = None
        self._connecting = asyncio.Lock()
        self._connection = AsyncExitStack()

    async def __aenter__(self) -> Streams:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._hold(0)
        await self._connection.aclose()

    def obey(self, message: dict[str, Any]) -> None:
        """Do what a message of the worker asks for."""
        if "users" in message:
            self._url = message["url"]
            self._hold(message["users"])
        elif "start" in message:
            self._recorder.start(Window(**message["start"]))
        else:
            self._recorder.stop()

    def _hold(self, count: int) -> None:
        while len(self._tasks) > count:
            self._tasks.pop().cancel()
        while len(self._tasks) < count:
            self._tasks.append(asyncio.create_task(self._play(len(self._tasks) + 1)))

    async def _play(self, number: int) -> None:
        """Play one stream after another."""
        player: StreamPlayer | None = None
        while True:
            waited = await self._recorder.wait_for_start()
            try:
                if player is None:
                    client = await self._connected()
                    player = StreamPlayer(number, client, self._scripts, self._recorder)
                elif waited:
                    player.reset_phase()
                await player.play()
            except earshot.EarshotError as error:
                self._recorder.record_failure(type(error).__name__, str(error))
                await asyncio.sleep(_PAUSE_S)

    async def _connected(self) -> earshot.AsyncClient:
        """Return the client, which all streams share."""
        async with self._connecting:
            if self._client is None:
                self._client = await self._connection.enter_async_context(
                    earshot.connect_async(self._url, model=self._model)
                )
            return self._client


async def serve(worker: socket.socket, scripts: Sequence[Script], model: str | None) -> None:
    """Play streams as the worker asks, until it closes the socket."""
    reader, writer = await asyncio.open_connection(sock=worker)

    async def send(batch: SampleBatch) -> None:
        writer.write(pack(batch))
        await writer.drain()

    writer.write(pack({"ready": True}))
    recorder = SampleRecorder(_cpu_s)
    reports = [
        asyncio.create_task(recorder.tick_forever()),
        asyncio.create_task(recorder.report_forever(send)),
    ]
    received = Received()
    async with Streams(scripts, model, recorder) as streams:
        while data := await _read(reader):
            for message in received.add(data):
                streams.obey(message)
    for report in reports:
        report.cancel()


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Return what the worker sends next, nothing if it has ended."""
    try:
        return await reader.read(_READ_BYTES)
    except ConnectionError:
        return b""


def _cpu_s() -> float:
    """Return the CPU time of this process and of its worker."""
    times = psutil.Process(os.getppid()).cpu_times()
    return time.process_time() + times.user + times.system


def prepare() -> tuple[Namespace, list[Script]]:
    """Read the options, load what is played, and get ready to keep time."""
    parser = ArgumentParser(description="The live streams of one Locust worker, which starts this.")
    parser.add_argument("--speech", required=True)
    parser.add_argument("--talk-s", type=float, required=True)
    parser.add_argument("--model")
    options = parser.parse_args()
    # Ctrl-C reaches the worker too, and this process ends with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    use_real_time_priority()
    scripts = write_scripts(load_clips(Path(options.speech)), options.talk_s)
    # A full collection over everything that was imported would hold up every stream.
    gc.collect()
    gc.freeze()
    return options, scripts


def main() -> None:
    """Play the streams of the worker at the other end of standard input."""
    options, scripts = prepare()
    asyncio.run(serve(socket.socket(fileno=0), scripts, options.model))


if __name__ == "__main__":
    main()
