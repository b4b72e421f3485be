"""Continuous speech for load: real recordings joined end to end, no pause skipped."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RECORDINGS = Path(__file__).parent.parent / "recordings"
SAMPLE_RATE_HZ = 16_000
TALK_S = 20.0
"""A speaker talks for at least so long before the next one has the microphone: streams end and
begin all the time, as they do in a live service."""
MAX_SCRIPTS = 16
"""Each is heard once, alone, before the load: what the streams under load are compared with."""
_KINDS = (".flac", ".mp3", ".wav")

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Recording:
    """One recording and, if its folder's manifest.tsv knows, what was said."""

    samples: Samples
    said: str | None


@dataclass(frozen=True)
class Script:
    """What one speaker says: recordings joined, float32 [N] at 16 kHz."""

    samples: Samples
    said: str | None
    """``None`` if any recording in it has no transcript."""


def load_recordings(folder: Path = RECORDINGS) -> list[Recording]:
    """All 16 kHz mono recordings below ``folder``, in the order of their paths.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a manifest lacks a column.
    """
    manifests = folder.rglob("manifest.tsv")
    said = dict(line for manifest in manifests for line in read_manifest(manifest))
    recordings: list[Recording] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _KINDS):
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        if rate_hz == SAMPLE_RATE_HZ and samples.shape[1] == 1:
            recordings.append(Recording(samples[:, 0].astype(np.float32), said.get(path)))
    if not recordings:
        kinds = ", ".join(_KINDS)
        raise FileNotFoundError(f"no 16 kHz mono recording ({kinds}) below {folder}")
    return recordings


def read_manifest(manifest: Path) -> list[tuple[Path, str]]:
    """The recordings that ``manifest`` names, and what was said in each.

    Raises:
        ValueError: it lacks the column `file` or `transcript`.
    """
    with manifest.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = {"file", "transcript"} - set(rows.fieldnames or ())
        if missing:
            raise ValueError(f"{manifest} has no column {' or '.join(sorted(missing))}")
        return [(manifest.parent / row["file"], row["transcript"]) for row in rows]


def write_scripts(recordings: list[Recording], talk_s: float = TALK_S) -> list[Script]:
    """One script from each recording on, up to 16 that begin at different places."""
    step = max(1, len(recordings) // MAX_SCRIPTS)
    firsts = range(0, len(recordings), step)[:MAX_SCRIPTS]
    return [_script_from(recordings, first, talk_s) for first in firsts]


def load_speech(folder: Path = RECORDINGS) -> Samples:
    """All recordings below ``folder``, joined: float32 [N]; errors as `load_recordings`."""
    return np.concatenate([recording.samples for recording in load_recordings(folder)])


def from_offset(speech: Samples, offset: int, length: int) -> Samples:
    """``length`` samples of endless ``speech``, beginning at ``offset``."""
    return np.take(speech, np.arange(offset, offset + length), mode="wrap")


def _script_from(recordings: list[Recording], first: int, talk_s: float) -> Script:
    parts: list[Recording] = []
    while sum(len(part.samples) for part in parts) < talk_s * SAMPLE_RATE_HZ:
        parts.append(recordings[(first + len(parts)) % len(recordings)])
    said = [part.said for part in parts if part.said is not None]
    return Script(
        np.concatenate([part.samples for part in parts]),
        " ".join(said) if len(said) == len(parts) else None,
    )
