"""Both recognizers get the same audio, and word errors are counted as the field counts them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.audio.recordings import LabelledRecording, find_recordings
from loadtest.compare import comparison as module
from loadtest.compare.comparison import (
    StreamsPerCore,
    compare_with_pocketsphinx,
    word_counts,
    word_error_rates,
)
from loadtest.compare.pocketsphinx import decode
from loadtest.options import LoadOptions
from loadtest.result.baseline import ALL_SETS, BaselineResult, RecognizerComparison
from loadtest.result.document import CapacityResult
from loadtest.service.server import serving
from tests.support.project import PROJECT, Exported
from tests.support.sample_results import capacity_result, comparison, gpu_result


def labelled(speech_set: str, *texts: str) -> list[LabelledRecording]:
    return [LabelledRecording(speech_set, Path("x.wav"), text) for text in texts]


def test_errors_are_counted_over_words_not_over_recordings() -> None:
    recordings = [*labelled("a", "we walk up there", "yes"), *labelled("b", "Good morning, Sir!")]
    # A substitution of 4 words; an insertion to 1; and nothing but another spelling.
    rates = word_error_rates(recordings, ["we talk up there", "yes yes", "good morning sir"])
    assert word_counts(recordings) == {"a": 5, "b": 3, ALL_SETS: 8}
    assert rates == {"a": 0.4, "b": 0.0, ALL_SETS: 0.25}


def test_words_without_a_transcript_are_insertions() -> None:
    recordings = labelled("a", "", "yes")
    assert word_error_rates(recordings, ["well well", ""]) == {"a": 3.0, ALL_SETS: 3.0}


def test_pocketsphinx_recognizes_words_and_its_time_is_counted() -> None:
    recordings = find_recordings(PROJECT / "recordings", ["librispeech_dev_clean_mp3_heldout"])
    done: list[int] = []
    decoded = decode(recordings, lambda: done.append(1))
    assert len(done) == len(decoded.texts) == 2
    assert "in less than five minutes" in decoded.texts[1]
    assert decoded.audio_s == pytest.approx(6.26, abs=0.2)
    assert 0.05 < decoded.streams_per_core < 50
    assert word_error_rates(recordings, decoded.texts)[ALL_SETS] < 0.6


@pytest.mark.triton
def test_both_recognizers_are_in_the_comparison(exported: Exported) -> None:
    recordings = find_recordings(PROJECT / "recordings", ["speechocean762_test", "jfk"])
    with serving(exported(320)) as server:
        compared = compare_with_pocketsphinx(
            LoadOptions(url=server.url), recordings, StreamsPerCore(12.5, "given")
        )
    assert [each.name for each in compared.sets] == ["jfk", "speechocean762_test"]
    assert [each.recordings for each in compared.sets] == [1, 2]
    assert sum(each.words for each in compared.sets) == 34
    ours, theirs = compared.recognizers
    assert ours.name.endswith("onnxruntime fp32, 320 ms chunks")
    assert (ours.streams_per_core, ours.streams_per_core_is) == (12.5, "given")
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
    calls: list[tuple[LoadOptions, int, StreamsPerCore]] = []

    def compare(
        options: LoadOptions, recordings: list[LabelledRecording], per_core: StreamsPerCore
    ) -> RecognizerComparison:
        calls.append((options, len(recordings), per_core))
        return comparison()

    monkeypatch.setattr(module, "compare_with_pocketsphinx", compare)
    options = LoadOptions(url="host:1", model="clinic")
    compared = module.with_baseline(result, options)
    assert compared.baseline == comparison()
    [(used, recordings, figure)] = calls
    assert (used, recordings, figure.value) == (options, 10, per_core)
    assert measured in figure.method


def test_a_capacity_run_needs_transcripts_for_it_before_it_begins(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtest", "capacity", "--baseline", "pocketsphinx"]
    command += ["--url", "127.0.0.1:1", "--speech", str(tmp_path)]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
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
