"""Run PocketSphinx with its own English models, the traditional pipeline of the comparison.

It uses Gaussian mixtures, a pronunciation dictionary and a trigram language model, with a beam
search in three passes and default settings. Each recording is decoded as a whole, as fast as
possible.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from loadtest.audio.recordings import SAMPLE_RATE_HZ, LabelledRecording


class NotInstalled(Exception):
    """PocketSphinx, an optional dependency, is not installed."""


@dataclass(frozen=True)
class Decoded:
    """Transcripts of PocketSphinx, and the CPU time that they took."""

    name: str
    texts: list[str]
    audio_s: float
    cpu_s: float

    @property
    def streams_per_core(self) -> float:
        """Return the seconds of audio per second of CPU time: the inverse real-time factor."""
        return self.audio_s / self.cpu_s


def decode(recordings: Sequence[LabelledRecording], advance: Callable[[], None]) -> Decoded:
    """Decode `recordings` one after the other in this thread, on one core.

    CPU time includes only the decoding, not reading files or loading the models.

    Args:
        recordings: Recordings to decode.
        advance: Called after each recording.
    """
    decoder = _new_decoder()
    texts: list[str] = []
    audio_s = cpu_s = 0.0
    with _on_one_core():
        for recording in recordings:
            samples = recording.read()
            before_s = time.thread_time()
            texts.append(_transcribe(decoder, samples.tobytes()))
            cpu_s += time.thread_time() - before_s
            audio_s += len(samples) / SAMPLE_RATE_HZ
            advance()
    return Decoded(f"PocketSphinx {version('pocketsphinx')}, en-us", texts, audio_s, cpu_s)


def require_installed() -> None:
    """Raise NotInstalled if PocketSphinx is missing, before minutes are spent on other work."""
    if find_spec("pocketsphinx") is None:
        raise NotInstalled(
            "PocketSphinx is not installed: pip install -c constraints.txt '.[baseline]'"
        )


def _new_decoder() -> Any:
    from pocketsphinx import Decoder

    decoder: Any = Decoder
    return decoder(samprate=SAMPLE_RATE_HZ, loglevel="FATAL")


def _transcribe(decoder: Any, audio: bytes) -> str:
    """Return the best hypothesis for one utterance; it is empty if the search found none."""
    decoder.start_utt()
    # Pass the whole utterance at once, because the features are normalized over all of it.
    decoder.process_raw(audio, no_search=False, full_utt=True)
    decoder.end_utt()
    best = decoder.hyp()
    return best.hypstr if best else ""


@contextmanager
def _on_one_core() -> Generator[None]:
    """Pin this thread to one core for the length of the block, so that its caches stay warm."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
