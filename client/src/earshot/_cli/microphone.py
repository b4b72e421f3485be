"""The microphone as an iterable of PCM; needs `pip install 'earshot-client[mic]'`."""

from __future__ import annotations

import importlib
import queue
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from .._errors import InvalidAudio


class Microphone:
    """An open microphone; make one with `open_microphone`."""

    channels = 1

    def __init__(self, sample_rate_hz: float) -> None:
        self.sample_rate_hz = sample_rate_hz
        # Unbounded: a slow server delays the text, but loses no audio.
        self._pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def __iter__(self) -> Iterator[bytes]:
        """int16 samples as they come, until `stop`."""
        return iter(self._pieces.get, None)

    def stop(self) -> None:
        """Ends the iteration, after what has been heard so far; may be called anywhere."""
        self._pieces.put(None)

    def hear(self, data: Any, *_: Any) -> None:
        """Takes what sounddevice brings, on a thread of PortAudio's."""
        self._pieces.put(bytes(data))


@contextmanager
def open_microphone() -> Generator[Microphone, None, None]:
    """Listens on the default input device, at its own rate; raises InvalidAudio without one."""
    try:
        sound: Any = importlib.import_module("sounddevice")
    except ImportError:
        raise InvalidAudio(
            "the microphone needs sounddevice: pip install 'earshot-client[mic]'"
        ) from None
    except OSError as error:
        raise InvalidAudio(f"sounddevice does not load: {error}") from error
    try:
        microphone = Microphone(sound.query_devices(kind="input")["default_samplerate"])
        source = sound.RawInputStream(
            samplerate=microphone.sample_rate_hz,
            channels=microphone.channels,
            dtype="int16",
            callback=microphone.hear,
        )
    except sound.PortAudioError as error:
        raise InvalidAudio(f"no microphone: {error}") from error
    with source:
        yield microphone
