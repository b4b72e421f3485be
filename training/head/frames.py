"""Compute the encoder's frames of recordings once, and keep them for later trainings of heads.

They are what the stage `encoder` of the service sends on for every chunk: projected for the joint
network, with the lookahead of the chunks that are served.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.adapt.base import Base
from training.adapt.errors import CannotAdapt
from training.fast_encoder import encode
from training.features import Recording, log_mel, read_audio

BATCH_SIZE = 8


@dataclass(frozen=True)
class EncodedRecordings:
    """Frames of all recordings, one after the other, float16 [frames, width], and their counts."""

    frames: Tensor
    counts: Tensor
    """int64 [recordings]"""

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the frames of some recordings, float32 [B, T, width] with zeros, and counts."""
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
) -> EncodedRecordings:
    """Return the encoder's frames of `recordings`, from `folder` if they have been computed.

    Raises:
        CannotAdapt: a file is no sound.
    """
    names = "\n".join(str(recording.path.resolve()) for recording in recordings)
    key = hashlib.sha256(f"{base_sha256} {lookahead}\n{names}".encode()).hexdigest()
    path = folder / f"frames-{key[:16]}.safetensors"
    if not path.exists():
        frames = _encode(base, recordings, lookahead, on_recording)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        counts = torch.tensor([len(each) for each in frames])
        save_file({"frames": torch.cat(frames), "counts": counts}, partial)
        os.replace(partial, path)
    tensors = load_file(path)
    return EncodedRecordings(tensors["frames"], tensors["counts"])


def _encode(
    base: Base, recordings: Sequence[Recording], lookahead: int, on_recording: Callable[[], None]
) -> list[Tensor]:
    frames: list[Tensor] = []
    for first in range(0, len(recordings), BATCH_SIZE):
        mels = [_log_mel(recording) for recording in recordings[first : first + BATCH_SIZE]]
        mel_counts = torch.tensor([len(mel) for mel in mels])
        with torch.inference_mode():
            mel = pad_sequence(mels, batch_first=True)
            encoded, counts = encode(base.model, mel, mel_counts, lookahead)
        for each, count in zip(encoded, counts, strict=True):
            frames.append(each[:count].to(torch.float16))
            on_recording()
    return frames


def _log_mel(recording: Recording) -> Tensor:
    try:
        mel = log_mel(read_audio(recording.path))
    except soundfile.LibsndfileError as error:
        raise CannotAdapt(f"expected recordings as WAV, FLAC, Ogg or MP3: {error}") from error
    if not len(mel):
        raise CannotAdapt(f"{recording.path} is empty: leave it out of the manifest")
    return torch.from_numpy(mel.astype(np.float32))
