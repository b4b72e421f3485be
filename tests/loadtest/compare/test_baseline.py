"""The baseline hears what we hear, errors are counted as the field counts them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from made_up_results import capacity_result, comparison, gpu_result
from project import PROJECT, Exported

from loadtest import side_by_side
from loadtest.comparison import ALL_SETS, BaselineResult, Comparison
from loadtest.recordings import Recording, find_recordings
from loadtest.result import CapacityResult
from loadtest.server_process import serving
from loadtest.side_by_side import compare_with_pocketsphinx
from loadtest.sphinx import decode
from loadtest.word_errors import word_counts, word_error_rates


def said(speech_set: str, *texts: str) -> list[Recording]:
    return [Recording(speech_set, Path("x.wav"), text) for text in texts]


def test_errors_are_counted_over_words_not_over_recordings() -> None:
    recordings = [*said("a", "we walk up there", "yes"), *said("b", "Good morning, Sir!")]
    # A substitution of 4 words; an insertion to 1; and nothing but another spelling.
    rates = word_error_rates(recordings, ["we talk up there", "yes yes", "good morning sir"])
    assert word_counts(recordings) == {"a": 5, "b": 3, ALL_SETS: 8}
    assert rates == {"a": 0.4, "b": 0.0, ALL_SETS: 0.25}


def test_words_heard_where_nothing_was_said_are_errors() -> None:
    recordings = said("a", "", "yes")
    assert word_error_rates(recordings, ["well well", ""]) == {"a": 3.0, ALL_SETS: 3.0}


def test_sets_are_found_by_their_manifests() -> None:
    recordings = find_recordings(PROJECT / "recordings")
    assert len(recordings) == 10
    assert {"jfk", "speechocean762_test"} < {recording.speech_set for recording in recordings}
    [jfk] = find_recordings(PROJECT / "recordings", ["jfk"])
    assert jfk.said.startswith("and so my fellow americans")
    samples = jfk.read()
    assert (samples.dtype, len(samples)) == (np.int16, 11 * 16_000)


def test_other_rates_are_resampled(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 300 * np.arange(8_000) / 8_000)
    soundfile.write(tmp_path / "a.wav", 0.5 * tone, 8_000)
    samples = Recording("a", tmp_path / "a.wav", "").read()
    assert len(samples) == 16_000
    spectrum = np.abs(np.fft.rfft(samples[1_000:-1_000].astype(float)))
    assert np.argmax(spectrum) * 16_000 / (len(samples) - 2_000) == pytest.approx(300, abs=2)


@pytest.mark.parametrize(
    ("manifest", "error"),
    [
        (None, "no manifest.tsv below"),
        ("file\tseconds\na.wav\t1\n", "has no column transcript"),
        ("file\ttranscript\n", "every manifest.tsv is empty"),
        ("file\ttranscript\na.wav\tyes\n", "names a.wav, which is not there"),
    ],
)
def test_a_folder_that_is_not_of_recordings_is_refused(
    tmp_path: Path, manifest: str | None, error: str
) -> None:
    if manifest is not None:
        (tmp_path / "manifest.tsv").write_text(manifest)
    with pytest.raises((FileNotFoundError, ValueError), match=error):
        find_recordings(tmp_path)


def test_a_set_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"no set nothing below .*: jfk, "):
        find_recordings(PROJECT / "recordings", ["jfk", "nothing"])


def test_pocketsphinx_hears_words_and_its_time_is_counted() -> None:
    recordings = find_recordings(PROJECT / "recordings", ["librispeech_dev_clean_mp3_heldout"])
    done: list[int] = []
    decoded = decode(recordings, lambda: done.append(1))
    assert len(done) == len(decoded.heard) == 2
    assert "in less than five minutes" in decoded.heard[1]
    assert decoded.audio_s == pytest.approx(6.26, abs=0.2)
    assert 0.5 < decoded.streams_per_core < 50
    assert word_error_rates(recordings, decoded.heard)[ALL_SETS] < 0.6


@pytest.mark.triton
def test_both_recognizers_are_in_the_comparison(exported: Exported) -> None:
    recordings = find_recordings(PROJECT / "recordings", ["speechocean762_test", "jfk"])
    with serving(exported(320)) as server:
        compared = compare_with_pocketsphinx(server.url, recordings, 12.5, "made up")
    assert [each.name for each in compared.sets] == ["jfk", "speechocean762_test"]
    assert [each.recordings for each in compared.sets] == [1, 2]
    assert sum(each.words for each in compared.sets) == 34
    ours, theirs = compared.recognizers
    assert ours.name.endswith("onnxruntime fp32, 320 ms chunks")
    assert (ours.streams_per_core, ours.streams_per_core_is) == (12.5, "made up")
    assert theirs.name.startswith("PocketSphinx 5")
    assert set(ours.word_error_rate) == {"jfk", "speechocean762_test", ALL_SETS}
    assert theirs.word_error_rate["jfk"] < 0.5  # it knows English, random weights do not
    assert ours.word_error_rate["jfk"] > 0.8


@pytest.mark.parametrize(
    ("result", "per_core", "measured"),
    [(capacity_result(), 104.0, "live streams held in time"), (gpu_result(), None, "ran on GPUs")],
)
def test_a_capacity_result_brings_its_own_streams_per_core(
    result: CapacityResult,
    per_core: float | None,
    measured: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[object] = []

    def compare(url: str, recordings: list[Recording], *ours: object) -> Comparison:
        told.extend([url, len(recordings), *ours])
        return comparison()

    monkeypatch.setattr(side_by_side, "compare_with_pocketsphinx", compare)
    compared = side_by_side.with_baseline(result, "host:1", PROJECT / "recordings", "clinic")
    assert compared.baseline == comparison()
    assert told[:3] == ["host:1", 10, per_core]
    assert measured in str(told[3])
    assert told[4] == "clinic"


def test_a_capacity_run_needs_transcripts_for_it_before_it_begins(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtest", "capacity", "--baseline", "pocketsphinx"]
    command += ["--url", "127.0.0.1:1", "--speech", str(tmp_path)]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (2, "")
    assert "no manifest.tsv" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_document_survives_the_disk(tmp_path: Path) -> None:
    result = BaselineResult(1, "baseline", comparison(), "AMD EPYC", 2, {"a": "1"}, "c", "2026")
    result.write(tmp_path / "folder" / "baseline.json")
    assert BaselineResult.from_json(tmp_path / "folder" / "baseline.json") == result
    (tmp_path / "other.json").write_text('{"kind": "capacity"}')
    with pytest.raises(ValueError, match="is not the result of a baseline run"):
        BaselineResult.from_json(tmp_path / "other.json")
