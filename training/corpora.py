"""Read the real recordings, hold out speakers, and compute features.

The speech folder contains `train/<corpus>/manifest.tsv` (columns file, seconds, speaker,
transcript), `train/text/sentences.txt`, `test/<set>/manifest.tsv` and `noise/` with audio files.
Any folder of that layout works. Recordings are identified by their file names without the suffix,
because corpora are often copied in another format.
"""

import logging
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from training.features import (
    Frames,
    Recording,
    Samples,
    log_mel,
    read_audio,
    read_manifest,
    write_shard,
)

_log = logging.getLogger(__name__)

SPEAKERS_PER_HELD_OUT = 9
MIN_SPEAKERS_TO_HOLD_OUT = 10
SOUND_SUFFIXES = {".ogg", ".wav", ".flac", ".mp3"}
JOINED_SECONDS = 4.0
"""Recordings of single words are concatenated to about this length, because alone they lack
context."""
WORD_SECONDS = 1.5
SAME_SPEED = (1.0, 1.0)
SPEED_VARIANTS = {"slower": (0.85, 0.95), "faster": (1.05, 1.18)}
"""Copies to train on: pitch and formants change with the speed, so each speaker becomes three."""


def corpora(speech: Path) -> list[str]:
    """Return the names of the training corpora that have a manifest."""
    return sorted(path.parent.name for path in (speech / "train").glob("*/manifest.tsv"))


def read_corpus(speech: Path, corpus: str) -> list[Recording]:
    """Return the recordings to train on: those of speakers without a recording in a test set."""
    recordings = read_manifest(speech / "train" / corpus)
    tested = _names(speech / "test")
    speakers = {each.speaker for each in recordings if each.path.stem in tested}
    return [
        each
        for each in recordings
        if each.path.stem not in tested and (not each.speaker or each.speaker not in speakers)
    ]


def read_tested(folder: Path) -> list[Recording]:
    """Return the recordings of a test set that are in no training corpus.

    The committed weights may have been trained on recordings that `read_corpus` leaves out by now.
    """
    trained = _names(folder.parents[1] / "train")
    recordings = read_manifest(folder)
    kept = [each for each in recordings if each.path.stem not in trained]
    if len(kept) < len(recordings):
        _log.warning(
            "%s: left out %d of %d recordings, which lie in a training corpus, too",
            folder.name,
            len(recordings) - len(kept),
            len(recordings),
        )
    return kept


def _names(folders: Path) -> set[str]:
    """Return the names in the manifests of all folders in `folders`."""
    manifests = folders.glob("*/manifest.tsv")
    return {each.path.stem for path in manifests for each in read_manifest(path.parent)}


def prepare_corpus(speech: Path, features: Path, corpus: str) -> None:
    """Write the shards `real-<corpus>` and, for held-out speakers, `dev-<corpus>`."""
    recordings = read_corpus(speech, corpus)
    speakers = {recording.speaker for recording in recordings}
    parts: dict[str, list[Recording]] = {"real": [], "dev": []}
    for recording in recordings:
        held_out = len(speakers) >= MIN_SPEAKERS_TO_HOLD_OUT and is_held_out(
            corpus, recording.speaker
        )
        parts["dev" if held_out else "real"].append(recording)
    for part, members in parts.items():
        name = f"{part}-{corpus}"
        if members and not (features / f"{name}.tsv").exists():
            write_shard(features, name, _log_mels(join_words(members, SAME_SPEED)))
    for variant, speeds in SPEED_VARIANTS.items():
        name = f"real-{corpus}-{variant}"
        if parts["real"] and not (features / f"{name}.tsv").exists():
            write_shard(features, name, _log_mels(join_words(parts["real"], speeds)))


def is_held_out(corpus: str, speaker: str) -> bool:
    """Select one speaker in nine by a hash of the name, independent of the order of speakers."""
    return zlib.crc32(f"{corpus}/{speaker}".encode()) % SPEAKERS_PER_HELD_OUT == 0


def prepare_noise(speech: Path, features: Path) -> None:
    """Write the shard `noise`, one utterance without text per sound file."""
    if (features / "noise.tsv").exists():
        return
    paths = sorted(p for p in (speech / "noise").iterdir() if p.suffix in SOUND_SUFFIXES)
    readable = (path for path in paths if _is_readable(path))
    write_shard(features, "noise", ((log_mel(read_audio(path)), "") for path in readable))


def _is_readable(path: Path) -> bool:
    """Return False for the few Ogg Opus clips that libsndfile considers malformed."""
    try:
        soundfile.read(path)
    except soundfile.LibsndfileError as error:
        _log.warning("left out %s: %s", path.name, error)
        return False
    return True


def _log_mels(spoken: Iterator[tuple[Samples, str]]) -> Iterator[tuple[Frames, str]]:
    return ((log_mel(samples), text) for samples, text in spoken)


def join_words(
    recordings: list[Recording], speeds: tuple[float, float]
) -> Iterator[tuple[Samples, str]]:
    """Yield samples and text of each recording, played at a speed in the given range.

    One-word recordings of a speaker are joined, in random order.
    """
    held: list[Samples] = []
    words: list[str] = []
    speaker = ""
    for recording in sorted(
        recordings, key=lambda r: (r.speaker, zlib.crc32(r.path.name.encode()))
    ):
        # Derived from the name, so that a corpus is always processed in the same way.
        share = zlib.crc32(f"speed of {recording.path.name}".encode()) / 2**32
        samples = read_audio(recording.path, speeds[0] + share * (speeds[1] - speeds[0]))
        single = len(samples) < WORD_SECONDS * 16_000 and " " not in recording.text
        held_seconds = sum(map(len, held)) / 16_000
        if held and (not single or recording.speaker != speaker or held_seconds > JOINED_SECONDS):
            yield np.concatenate(held), " ".join(words)
            held, words = [], []
        if not single:
            yield samples, recording.text
            continue
        speaker = recording.speaker
        held.append(samples)
        words.append(recording.text)
    if held:
        yield np.concatenate(held), " ".join(words)
