"""Recordings are found by their manifests, and read as every recognizer gets them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from loadtest.audio.recordings import LabelledRecording, find_recordings, load_clips
from tests.support.project import PROJECT


def test_sets_are_found_by_their_manifests() -> None:
    recordings = find_recordings(PROJECT / "recordings")
    assert len(recordings) == 10
    assert {"jfk", "speechocean762_test"} < {recording.speech_set for recording in recordings}
    [jfk] = find_recordings(PROJECT / "recordings", ["jfk"])
    assert jfk.transcript.startswith("and so my fellow americans")
    samples = jfk.read()
    assert (samples.dtype, len(samples)) == (np.int16, 11 * 16_000)


def test_other_rates_are_resampled(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 300 * np.arange(8_000) / 8_000)
    soundfile.write(tmp_path / "a.wav", 0.5 * tone, 8_000)
    samples = LabelledRecording("a", tmp_path / "a.wav", "").read()
    assert len(samples) == 16_000
    spectrum = np.abs(np.fft.rfft(samples[1_000:-1_000].astype(float)))
    assert np.argmax(spectrum) * 16_000 / (len(samples) - 2_000) == pytest.approx(300, abs=2)


@pytest.mark.parametrize(
    ("manifest", "error"),
    [
        (None, "no manifest.tsv below"),
        ("file\tseconds\na.wav\t1\n", "has no column transcript"),
        ("file\ttranscript\n", "every manifest.tsv is empty"),
        ("file\ttranscript\na.wav\tyes\n", "names a.wav, which does not exist"),
    ],
)
def test_a_folder_without_labelled_recordings_is_refused(
    tmp_path: Path, manifest: str | None, error: str
) -> None:
    if manifest is not None:
        (tmp_path / "manifest.tsv").write_text(manifest)
    with pytest.raises((FileNotFoundError, ValueError), match=error):
        find_recordings(tmp_path)


def test_a_missing_set_is_named() -> None:
    with pytest.raises(ValueError, match=r"no set nothing below .*: jfk, "):
        find_recordings(PROJECT / "recordings", ["jfk", "nothing"])


def test_a_manifest_without_transcripts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.tsv").write_text("file\tseconds\na.wav\t1\n")
    with pytest.raises(ValueError, match="has no column transcript"):
        load_clips(tmp_path)
