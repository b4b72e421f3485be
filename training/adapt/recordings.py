"""Read a customer's recordings, hold some out, and compute features of both parts.

The folder contains `manifest.tsv` (columns file, transcript and, if known, speaker) and the audio
files that it lists.
"""

import csv
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from training.adapt.errors import CannotAdapt
from training.augment import Surroundings, colour_of
from training.batches import MIN_COLOUR_SECONDS, Pool, usable
from training.corpora import (
    MIN_SPEAKERS_TO_HOLD_OUT,
    SAME_SPEED,
    SPEAKERS_PER_HELD_OUT,
    SPEED_VARIANTS,
    join_words,
)
from training.features import (
    Frames,
    Recording,
    Utterance,
    log_mel,
    read_manifest,
    read_shard,
    write_shard,
)

REQUIRED_COLUMNS = ("file", "transcript")
MAX_SECONDS = 60.0
"""Longest recording to train on; the transducer's lattice grows with frames times tokens."""


@dataclass(frozen=True)
class Split:
    """Recordings to train on and recordings to measure on."""

    trained: list[Recording]
    held_out: list[Recording]
    by_speaker: bool
    """True if the parts have no speaker in common; else, with few named speakers, no sentence."""


def read_recordings(folder: Path) -> list[Recording]:
    """Read the manifest of `folder`.

    Raises:
        CannotAdapt: it is missing or malformed, a listed file is missing, or a transcript has no
            words.
    """
    manifest = folder / "manifest.tsv"
    check_manifest(manifest, REQUIRED_COLUMNS)
    recordings = read_manifest(folder)
    require_files(manifest, recordings)
    silent = [r.path.name for r in recordings if not r.text]
    if silent:
        raise CannotAdapt(
            f"{manifest} has {len(silent)} transcripts without a word in letters a to z (write "
            f"numbers in words): {_some(silent)}"
        )
    return recordings


def check_manifest(manifest: Path, columns: Sequence[str]) -> None:
    """Refuse a manifest that lacks one of `columns`, or has lines with other numbers of columns.

    Raises:
        CannotAdapt: it is missing or malformed.
    """
    if not manifest.is_file():
        raise CannotAdapt(
            f"expected {manifest} with the tab-separated columns {_listed(columns)} and, if known, "
            "speaker; there is no such file"
        )
    try:
        with manifest.open(encoding="utf-8", newline="") as lines:
            header, *rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CannotAdapt(f"expected {manifest} as UTF-8 text in columns: {error}") from error
    if not set(columns) <= set(header):
        raise CannotAdapt(
            f"expected the tab-separated columns {_listed(columns)} in the first line of "
            f"{manifest}, got {header}"
        )
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise CannotAdapt(
                f"{manifest}, line {number}: expected {len(header)} columns separated by tabs, "
                f"got {len(row)}"
            )


def require_files(manifest: Path, recordings: Sequence[Recording]) -> None:
    """Refuse a manifest that lists missing files; raise CannotAdapt."""
    missing = [str(r.path) for r in recordings if not r.path.is_file()]
    if missing:
        raise CannotAdapt(
            f"{manifest} names {len(missing)} files that do not exist: {_some(missing)}"
        )


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def split(recordings: list[Recording]) -> Split:
    """Hold out one speaker in nine or, with fewer than ten of them, one sentence in nine.

    All recordings of a held-out sentence are held out. The choice depends only on names, so a
    resumed run makes the same one.

    Raises:
        CannotAdapt: there are fewer than two speakers or sentences.
    """
    by_speaker = len({r.speaker for r in recordings}) >= MIN_SPEAKERS_TO_HOLD_OUT

    def group(recording: Recording) -> str:
        return recording.speaker if by_speaker else recording.text

    groups = sorted({group(r) for r in recordings}, key=lambda name: zlib.crc32(name.encode()))
    if len(groups) < 2:
        raise CannotAdapt("expected recordings of at least two sentences: some are only measured")
    chosen = set(groups[: max(1, len(groups) // SPEAKERS_PER_HELD_OUT)])
    return Split(
        trained=[r for r in recordings if group(r) not in chosen],
        held_out=[r for r in recordings if group(r) in chosen],
        by_speaker=by_speaker,
    )


@dataclass(frozen=True)
class Speech:
    """Features of a split: a pool to train on, and utterances to measure on."""

    pool: Pool
    held_out: list[Utterance]
    trained_hours: float
    """Length of the recordings in `pool`, without their speed variants."""


def prepare(parts: Split, features: Path, on_recording: Callable[[], None]) -> Speech:
    """Compute the features, at three speeds for training; later calls read them from disk."""
    speeds = {"": SAME_SPEED} | {f"-{name}": range_ for name, range_ in SPEED_VARIANTS.items()}
    shards = {f"real{suffix}": (parts.trained, range_) for suffix, range_ in speeds.items()}
    shards["dev"] = (parts.held_out, SAME_SPEED)
    for name, (recordings, range_) in shards.items():
        if not (features / f"{name}.tsv").exists():
            write_shard(features, name, _log_mels(recordings, range_, on_recording))
    original = read_shard(features / "real.tsv")
    variants = [u for name in SPEED_VARIANTS for u in read_shard(features / f"real-{name}.tsv")]
    real = [u for u in usable(original + variants) if u.seconds <= MAX_SECONDS]
    if not real:
        raise CannotAdapt(
            f"expected recordings of 0.4 to {MAX_SECONDS:.0f} s whose transcripts can be spoken in "
            "that time, got none"
        )
    colours = [
        colour_of(u.frames.astype("float32")) for u in original if u.seconds >= MIN_COLOUR_SECONDS
    ]
    return Speech(
        pool=Pool(real, [], [], Surroundings((), colours)),
        held_out=read_shard(features / "dev.tsv"),
        trained_hours=sum(u.seconds for u in original) / 3600,
    )


def recordings_to_read(parts: Split) -> int:
    """Return the number of recordings that `prepare` reports when it starts from scratch."""
    return len(parts.trained) * (1 + len(SPEED_VARIANTS)) + len(parts.held_out)


def _log_mels(
    recordings: list[Recording], speeds: tuple[float, float], on_recording: Callable[[], None]
) -> Iterator[tuple[Frames, str]]:
    try:
        for samples, text in join_words(recordings, speeds):
            yield log_mel(samples), text
            on_recording()
    except soundfile.LibsndfileError as error:
        raise CannotAdapt(f"expected recordings as WAV, FLAC, Ogg or MP3: {error}") from error
