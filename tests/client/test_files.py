"""Audio files are read block by block."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from earshot import InvalidAudio
from earshot._files import open_audio

from tests.support.fake_recognizer import RATE_HZ


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_are_the_whole_file(tmp_path: Path, suffix: str, channels: int) -> None:
    path = tmp_path / f"audio.{suffix}"
    time_s = np.arange(3 * RATE_HZ) / RATE_HZ
    syllables = np.sin(2 * np.pi * 200 * time_s) * (np.sin(2 * np.pi * 4 * time_s) > 0)
    soundfile.write(path, np.stack([0.5 * syllables] * channels, axis=1), RATE_HZ)
    whole, _ = soundfile.read(path, dtype="float32", always_2d=True)
    with open_audio(path) as audio:
        assert (audio.sample_rate_hz, audio.channels) == (RATE_HZ, channels)
        assert audio.duration_s == len(whole) / RATE_HZ
        blocks = list(audio.blocks())
    assert len(blocks) >= 12
    # The mp3 decoder adds a little dither, differently in each run.
    np.testing.assert_allclose(
        np.concatenate([np.asarray(block) for block in blocks]), whole, atol=1e-6
    )


def test_a_file_that_is_not_audio(tmp_path: Path) -> None:
    path = tmp_path / "text.wav"
    path.write_text("no audio")
    with (
        pytest.raises(InvalidAudio, match=r"text\.wav: cannot be read as audio: .*--encoding"),
        open_audio(path),
    ):
        pass


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.wav"
    path.touch()
    with pytest.raises(InvalidAudio, match=r"/empty\.wav: is empty$"), open_audio(path):
        pass


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.wav"
    with pytest.raises(InvalidAudio) as caught, open_audio(path):
        pass
    assert str(caught.value) == f"{path}: no such file"


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidAudio) as caught, open_audio(tmp_path):
        pass
    assert str(caught.value) == f"{tmp_path}: is a folder"


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_a_name_that_is_not_valid_utf8(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"plain.{suffix}"
    soundfile.write(path, np.zeros(RATE_HZ), RATE_HZ)
    path = path.rename(tmp_path / os.fsdecode(b"caf\xe9." + suffix.encode()))
    with open_audio(path) as audio:
        assert sum(map(len, audio.blocks())) == RATE_HZ


def test_the_name_does_not_matter_for_the_format(tmp_path: Path) -> None:
    path = tmp_path / "audio.raw"
    soundfile.write(path, np.zeros(RATE_HZ), RATE_HZ, format="FLAC")
    with open_audio(path) as audio:
        assert audio.duration_s == 1


def test_a_file_without_samples(tmp_path: Path) -> None:
    path = tmp_path / "empty.wav"
    soundfile.write(path, np.zeros(0, np.float32), RATE_HZ)
    with pytest.raises(InvalidAudio, match="contains no audio"), open_audio(path):
        pass
