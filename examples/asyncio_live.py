"""Transcribe several live streams at once with asyncio, over one connection.

    python examples/asyncio_live.py recordings/jfk/jfk.flac recordings/ljspeech/LJ001-0011.flac

Each file plays in real time and stands for a caller; replace `caller` with whatever brings audio in
your application, such as a websocket. EARSHOT_URL names the server; the default is localhost:8001.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator

import earshot
import soundfile

URL = os.environ.get("EARSHOT_URL", "localhost:8001")
BLOCK_S = 0.1


async def caller(path: str, sample_rate_hz: int) -> AsyncIterator[bytes]:
    """Yield the int16 samples of a file in blocks, in real time."""
    clock = asyncio.get_running_loop()
    started_s = clock.time()
    blocks = soundfile.blocks(path, int(BLOCK_S * sample_rate_hz), dtype="int16")
    for index, block in enumerate(blocks, start=1):
        await asyncio.sleep(started_s + index * BLOCK_S - clock.time())
        yield block.tobytes()


async def transcribe(client: earshot.AsyncClient, path: str) -> None:
    """Stream one caller; print each word when it is final, and the text at the end."""
    audio = soundfile.info(path)
    async with client.stream(sample_rate_hz=audio.samplerate, channels=audio.channels) as stream:
        async for result in stream.send_all(caller(path, audio.samplerate)):
            for word in result.words:
                print(f"{path}: {word.end_ms / 1000:6.2f} s  {word.text}", flush=True)
    print(f"{path}: {stream.transcript.text}")


async def main(paths: list[str]) -> None:
    """Transcribe all files at the same time."""
    async with earshot.connect_async(URL) as client:
        await asyncio.gather(*(transcribe(client, path) for path in paths))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
