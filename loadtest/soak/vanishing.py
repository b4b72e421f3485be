"""Run a process with live streams that is killed repeatedly, so that its streams never end.

`python -m loadtest.soak.vanishing URL MODEL SPEECH STREAMS`; MODEL is "" for the only one.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import earshot

from loadtest.audio.recordings import SAMPLE_RATE_HZ, Audio
from loadtest.audio.scripts import load_speech
from loadtest.options import PROJECT, LoadOptions
from loadtest.service.connection import connect_async

LIFE_S = 20.0
BEGUN = "begun"


class Vanishing:
    """Starts the process, kills it after `LIFE_S`, and starts another, until it is stopped.

    The last one is killed at the end of the block, after its streams have begun.
    """

    def __init__(self, options: LoadOptions, streams: int) -> None:
        model, speech = options.model or "", str(options.speech.resolve())
        module = "loadtest.soak.vanishing"
        self._command = [sys.executable, "-m", module, options.url, model, speech, str(streams)]
        self._streams = streams
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.vanished = 0

    def __enter__(self) -> Vanishing:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            with subprocess.Popen(
                self._command, cwd=PROJECT, stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                begun = process.stdout.readline().strip() == BEGUN
                self._stopped.wait(LIFE_S)
                process.kill()
            self.vanished += self._streams if begun else 0


async def _stream(client: earshot.AsyncClient, speech: Audio, begun: list[None]) -> None:
    """Stream in real time until the process is killed."""
    step = client.info.chunk_samples
    due_s, at = time.monotonic(), 0
    async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
        while True:
            if await stream.send(speech[at : at + step]):
                begun.append(None)
            at = (at + step) % (len(speech) - step)
            due_s += step / SAMPLE_RATE_HZ
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))


async def _main(url: str, model: str, speech: Audio, streams: int) -> None:
    begun: list[None] = []
    async with connect_async(url, model or None) as client:
        tasks = [asyncio.create_task(_stream(client, speech, begun)) for _ in range(streams)]
        while len(begun) < streams and not any(task.done() for task in tasks):
            await asyncio.sleep(0.05)
        print(BEGUN, flush=True)
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], load_speech(Path(sys.argv[3])), int(sys.argv[4])))
