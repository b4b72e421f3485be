"""Build continuous speech for the load: real recordings joined end to end, with their pauses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtest.audio.recordings import SAMPLE_RATE_HZ, Audio, Clip, load_clips

MAX_SCRIPTS = 16
"""Each script is transcribed once, alone, before the load, as reference for the streams under
load."""


@dataclass(frozen=True)
class Script:
    """The audio of one stream: recordings joined, float32 [N] at 16 kHz."""

    samples: Audio
    transcript: str | None
    """`None` if a recording in it has no transcript."""


def write_scripts(clips: list[Clip], min_s: float) -> list[Script]:
    """Return up to 16 scripts of at least `min_s` seconds, each beginning with a different clip."""
    step = max(1, len(clips) // MAX_SCRIPTS)
    firsts = range(0, len(clips), step)[:MAX_SCRIPTS]
    return [_script_from(clips, first, min_s) for first in firsts]


def load_speech(folder: Path) -> Audio:
    """Load all recordings below `folder`, joined: float32 [N]; raises as `load_clips`."""
    return np.concatenate([clip.samples for clip in load_clips(folder)])


def loop_from(speech: Audio, offset: int, length: int) -> Audio:
    """Return `length` samples of endlessly repeated `speech`, from `offset` on."""
    return np.take(speech, np.arange(offset, offset + length), mode="wrap")


def _script_from(clips: list[Clip], first: int, min_s: float) -> Script:
    parts: list[Clip] = []
    while sum(len(part.samples) for part in parts) < min_s * SAMPLE_RATE_HZ:
        parts.append(clips[(first + len(parts)) % len(clips)])
    transcripts = [part.transcript for part in parts if part.transcript is not None]
    return Script(
        np.concatenate([part.samples for part in parts]),
        " ".join(transcripts) if len(transcripts) == len(parts) else None,
    )
