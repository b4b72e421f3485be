"""Transcribe the microphone live: words appear while you speak, until Ctrl-C.

    pip install './client[mic]'
    python examples/live_microphone.py
    python examples/live_microphone.py --input recordings/jfk/jfk.flac

With --input, a sound file plays in real time in place of the microphone. EARSHOT_URL names the
server; the default is localhost:8001.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import earshot
import soundfile

URL = os.environ.get("EARSHOT_URL", "localhost:8001")
MICROPHONE_RATE_HZ = 16000
BLOCK_S = 0.1


@contextmanager
def microphone() -> Generator[Iterator[bytes], None, None]:
    """Record from the default input device until Ctrl-C; yield the blocks of samples."""
    import sounddevice

    # PortAudio fills the queue on its own thread, so that a slow answer loses no audio.
    blocks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def record(data: Any, *_: Any) -> None:
        blocks.put(bytes(data))

    def stop(*_: Any) -> None:
        blocks.put(None)

    signal.signal(signal.SIGINT, stop)
    with sounddevice.RawInputStream(
        samplerate=MICROPHONE_RATE_HZ, channels=1, dtype="int16", callback=record
    ):
        yield iter(blocks.get, None)


def play(path: str, sample_rate_hz: int) -> Iterator[bytes]:
    """Yield the blocks of a sound file, each when its last sample would be spoken."""
    started_s = time.monotonic()
    blocks = soundfile.blocks(path, int(BLOCK_S * sample_rate_hz), dtype="int16")
    for index, block in enumerate(blocks, start=1):
        time.sleep(max(0.0, started_s + index * BLOCK_S - time.monotonic()))
        yield block.tobytes()


def transcribe(blocks: Iterator[bytes], sample_rate_hz: int, channels: int) -> None:
    """Print the text of each chunk as soon as the server has answered it."""
    with earshot.connect(URL) as client:
        for result in client.stream_from(blocks, sample_rate_hz=sample_rate_hz, channels=channels):
            print(result.text, end="", flush=True)
    print()


def main() -> None:
    """Transcribe the microphone, or the file that --input names."""
    parser = argparse.ArgumentParser(description="Transcribe the microphone live.")
    parser.add_argument("--input", help="a sound file to play in place of the microphone")
    path = parser.parse_args().input
    if path:
        audio = soundfile.info(path)
        transcribe(play(path, audio.samplerate), audio.samplerate, audio.channels)
    else:
        with microphone() as blocks:
            transcribe(blocks, MICROPHONE_RATE_HZ, channels=1)


if __name__ == "__main__":
    main()
