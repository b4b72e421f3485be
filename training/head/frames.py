"""Compute the encoder's frames of recordings once, and store them for later training of heads.

They are the output of the service's stage `encoder`: projected for the joint network, with the
lookahead of the served chunks.

Variants of recordings sound as if recorded with the microphone of another one. If labels correlate
with the source of the recordings, heads would otherwise learn the microphones.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.adapt.base import Base
from training.adapt.errors import CannotAdapt
from training.augment import LOG_FLOOR, LogMel, change_level, colour_of, limit_band, match_colour
from training.fast_encoder import encode
from training.features import Recording, log_mel, read_audio

BATCH_SIZE = 8
NARROW_SHARE = 0.3
"""Share of the variants that lack the highest frequencies, as over a telephone."""


@dataclass(frozen=True)
class EncodedRecordings:
    """Concatenated frames of all recordings, float16 [frames, width], and their counts."""

    frames: Tensor
    counts: Tensor
    """int64 [recordings]"""

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the padded frames of some recordings, float32 [B, T, width], and their counts."""
        chosen = [self.of(index).float() for index in indices]
        return pad_sequence(chosen, batch_first=True), self.counts[list(indices)]

    def of(self, index: int) -> Tensor:
        """Return the frames of one recording."""
        end = int(self.counts[: index + 1].sum())
        return self.frames[end - int(self.counts[index]) : end]


def encoded_recordings(
    base: Base,
    base_sha256: str,
    recordings: Sequence[Recording],
    lookahead: int,
    folder: Path,
    on_recording: Callable[[], None],
    variant: int = 0,
) -> EncodedRecordings:
    """Return the encoder's frames of `recordings`, from `folder` if they are stored there.

    Args:
        variant: 0 for the original recordings; other numbers give different variants.

    Raises:
        CannotAdapt: a file is not readable as audio.
    """
    names = "\n".join(str(recording.path.resolve()) for recording in recordings)
    key = hashlib.sha256(f"{base_sha256} {lookahead} {variant}\n{names}".encode()).hexdigest()
    path = folder / f"frames-{key[:16]}.safetensors"
    if not path.exists():
        mels = map(_log_mel, recordings) if not variant else _variants(recordings, variant)
        frames = _encode(base, mels, lookahead, on_recording)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        counts = torch.tensor([len(each) for each in frames])
        save_file({"frames": torch.cat(frames), "counts": counts}, partial)
        os.replace(partial, path)
    tensors = load_file(path)
    return EncodedRecordings(tensors["frames"], tensors["counts"])


def _encode(
    base: Base, mels: Iterator[LogMel], lookahead: int, on_recording: Callable[[], None]
) -> list[Tensor]:
    frames: list[Tensor] = []
    while batch := list(islice(mels, BATCH_SIZE)):
        mel_counts = torch.tensor([len(mel) for mel in batch])
        with torch.inference_mode():
            mel = pad_sequence([torch.from_numpy(mel) for mel in batch], batch_first=True)
            encoded, counts = encode(base.model, mel, mel_counts, lookahead)
        for each, count in zip(encoded, counts, strict=True):
            frames.append(each[:count].to(torch.float16))
            on_recording()
    return frames


def _variants(recordings: Sequence[Recording], variant: int) -> Iterator[LogMel]:
    """Yield each recording with the colour of another one, at another level, some band-limited."""
    rng = np.random.default_rng(variant)
    for recording in recordings:
        other = _log_mel(recordings[int(rng.integers(len(recordings)))])
        mel = match_colour(_log_mel(recording), colour_of(other), rng.uniform(0.5, 1.0))
        mel = change_level(mel, rng.uniform(-12, 6))
        if rng.random() < NARROW_SHARE:
            mel = limit_band(mel, rng.uniform(0, 300), rng.uniform(3400, 7500), LOG_FLOOR)
        yield mel


def _log_mel(recording: Recording) -> LogMel:
    try:
        mel = log_mel(read_audio(recording.path))
    except soundfile.LibsndfileError as error:
        raise CannotAdapt(f"expected recordings as WAV, FLAC, Ogg or MP3: {error}") from error
    if not len(mel):
        raise CannotAdapt(f"{recording.path} is empty: leave it out of the manifest")
    return mel.astype(np.float32)
