"""Record the microphone as an iterable of PCM; this needs `pip install './client[mic]'`."""

from __future__ import annotations

import importlib
import queue
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from .._errors import InvalidAudio

SILENCE_S = 5.0
"""A device that delivers no samples for this long has stopped: in silence it still delivers
some."""


class Microphone:
    """An open microphone; `open_microphone` makes it."""

    channels = 1

    def __init__(self, sample_rate_hz: float) -> None:
        self.sample_rate_hz = sample_rate_hz
        # Unbounded, so that a slow server delays the text but loses no audio.
        self._pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.overflows = 0
        """Number of times that the machine was too slow, and audio before a piece was lost."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield int16 samples as they are recorded, until `stop`.

        Raises:
            InvalidAudio: The device has stopped, for example because it was unplugged.
        """
        while (piece := self._next()) is not None:
            yield piece

    def _next(self) -> bytes | None:
        try:
            return self._pieces.get(timeout=SILENCE_S)
        except queue.Empty:
            raise InvalidAudio(
                f"the microphone has delivered nothing for {SILENCE_S:g} s: is it still connected?"
            ) from None

    def stop(self) -> None:
        """End the iteration after the audio recorded so far; any thread or signal may call this."""
        self._pieces.put(None)

    def record(self, data: Any, frames: int, time: Any, status: Any) -> None:
        """Store recorded audio; sounddevice calls this on a thread of PortAudio."""
        self.overflows += bool(status.input_overflow)
        self._pieces.put(bytes(data))


@contextmanager
def open_microphone() -> Generator[Microphone, None, None]:
    """Record the default input device at its own rate; raise InvalidAudio if there is none."""
    try:
        sound: Any = importlib.import_module("sounddevice")
    except ImportError:
        raise InvalidAudio(
            "the microphone needs sounddevice: pip install './client[mic]' in the checkout"
        ) from None
    except OSError as error:
        raise InvalidAudio(f"sounddevice cannot be loaded: {error}") from error
    try:
        microphone = Microphone(sound.query_devices(kind="input")["default_samplerate"])
        source = sound.RawInputStream(
            samplerate=microphone.sample_rate_hz,
            channels=microphone.channels,
            dtype="int16",
            callback=microphone.record,
        )
    except sound.PortAudioError as error:
        raise InvalidAudio(f"no microphone: {error}") from error
    with source:
        yield microphone
