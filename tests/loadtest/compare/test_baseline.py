"""All recognizers get the same audio, and word errors are counted as the field counts them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from loadtest.audio.recordings import LabelledRecording, Samples, find_recordings
from loadtest.cli import app
from loadtest.compare import comparison as module
from loadtest.compare.comparison import (
    StreamsPerCore,
    compare,
    word_counts,
    word_error_rates,
)
from loadtest.compare.decode import Decoded, DecodingFailed, decode
from loadtest.compare.decode_worker import decode_all
from loadtest.compare.recognizers import (
    RECOGNIZERS,
    NotInstalled,
    require_installed,
    versions,
)
from loadtest.options import LoadOptions, OtherRecognizer
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


class Counting:
    """A recognizer that hears the number of samples."""

    TITLE: ClassVar[str] = "Counting"
    PACKAGES: ClassVar[tuple[str, ...]] = ("pytest", "no-such-package")
    name = "Counting 1, nothing"

    def transcribe(self, samples: Samples) -> str:
        return str(len(samples))


@pytest.mark.parametrize(
    ("recognizer", "name", "most_errors"),
    [
        (OtherRecognizer.POCKETSPHINX, "PocketSphinx 5", 0.6),
        (OtherRecognizer.WHISPER, "Whisper tiny.en, faster-whisper 1", 0.2),
    ],
)
def test_another_recognizer_recognizes_words_and_its_time_is_counted(
    recognizer: OtherRecognizer, name: str, most_errors: float
) -> None:
    require_or_skip(recognizer)
    recordings = find_recordings(PROJECT / "recordings", ["librispeech_dev_clean_mp3_heldout"])
    done: list[int] = []
    decoded = decode(recognizer, recordings, lambda: done.append(1))
    assert decoded.name.startswith(name)
    assert len(done) == len(decoded.texts) == 2
    assert "in less than five minutes" in decoded.texts[1]
    assert decoded.audio_s == pytest.approx(6.26, abs=0.2)
    assert decoded.cpu_s > 0
    assert word_error_rates(recordings, decoded.texts)[ALL_SETS] < most_errors


def require_or_skip(*recognizers: OtherRecognizer) -> None:
    try:
        require_installed(recognizers)
    except NotInstalled as missing:
        pytest.skip(str(missing))


def test_every_recording_is_decoded_whole() -> None:
    recordings = find_recordings(PROJECT / "recordings", ["speechocean762_test"])
    decoded = list(decode_all(Counting(), [each.path for each in recordings]))
    assert [each["samples"] for each in decoded] == [len(each.read()) for each in recordings]
    assert [each["text"] for each in decoded] == [str(each["samples"]) for each in decoded]


def test_a_recognizer_whose_process_fails_is_named(tmp_path: Path) -> None:
    require_or_skip(OtherRecognizer.POCKETSPHINX)
    lost = [LabelledRecording("a", tmp_path / "lost.wav", "yes")]
    with pytest.raises(DecodingFailed, match="PocketSphinx ended with 1"):
        decode(OtherRecognizer.POCKETSPHINX, lost, lambda: None)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECOGNIZERS, OtherRecognizer.WHISPER, Counting)
    with pytest.raises(NotInstalled, match=r"Counting .*lacks no-such-package: pip install"):
        require_installed([OtherRecognizer.WHISPER])
    monkeypatch.setattr(Counting, "PACKAGES", ("pytest",))
    require_installed([OtherRecognizer.WHISPER])
    assert versions([OtherRecognizer.WHISPER]) == {"pytest": pytest.__version__}


def test_every_name_has_its_recognizer() -> None:
    assert set(RECOGNIZERS) == set(OtherRecognizer)


def hears(text: str) -> Callable[..., Decoded]:
    """Return a fake of `decode` whose recognizers take 1 s for 10 s."""

    def decode(
        recognizer: OtherRecognizer,
        recordings: Sequence[LabelledRecording],
        advance: Callable[[], None],
    ) -> Decoded:
        return Decoded(f"{recognizer} 1, en", [text] * len(recordings), 10.0, 1.0)

    return decode


@pytest.mark.triton
def test_all_recognizers_are_in_the_comparison(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "decode", hears("and so my fellow americans"))
    recordings = find_recordings(PROJECT / "recordings", ["speechocean762_test", "jfk"])
    with serving(exported(320)) as server:
        compared = compare(
            LoadOptions(url=server.url),
            recordings,
            StreamsPerCore(12.5, "given"),
            list(OtherRecognizer),
        )
    assert [each.name for each in compared.sets] == ["jfk", "speechocean762_test"]
    assert [each.recordings for each in compared.sets] == [1, 2]
    assert sum(each.words for each in compared.sets) == 34
    ours, *others = compared.recognizers
    assert ours.name.endswith("onnxruntime fp32, 320 ms chunks")
    assert (ours.streams_per_core, ours.streams_per_core_is) == (12.5, "given")
    assert ours.word_error_rate["jfk"] > 0.8  # random weights know no English
    assert [each.name for each in others] == ["pocketsphinx 1, en", "whisper 1, en"]
    for each in others:
        assert set(each.word_error_rate) == {"jfk", "speechocean762_test", ALL_SETS}
        assert each.word_error_rate["jfk"] == pytest.approx(17 / 22, abs=0.001)
        assert each.streams_per_core == 10.0


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
        options: LoadOptions,
        recordings: list[LabelledRecording],
        per_core: StreamsPerCore,
        others: list[OtherRecognizer],
    ) -> RecognizerComparison:
        calls.append((options, len(recordings), per_core))
        assert others == [OtherRecognizer.WHISPER]
        return comparison()

    monkeypatch.setattr(module, "compare", compare)
    options = LoadOptions(url="host:1", model="clinic")
    compared = module.with_baseline(result, options, [OtherRecognizer.WHISPER])
    assert compared.baseline == comparison()
    [(used, recordings, figure)] = calls
    assert (used, recordings, figure.value) == (options, 10, per_core)
    assert measured in figure.method


def test_a_capacity_run_needs_transcripts_for_it_before_it_begins(tmp_path: Path) -> None:
    require_or_skip(*OtherRecognizer)
    command = [sys.executable, "-m", "loadtest", "capacity"]
    command += [f"--baseline={name}" for name in OtherRecognizer]
    command += ["--url", "127.0.0.1:1", "--speech", str(tmp_path)]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stdout) == (2, "")
    assert "no manifest.tsv" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_document_survives_the_disk(tmp_path: Path) -> None:
    result = document(comparison())
    result.write(tmp_path / "folder" / "baseline.json")
    assert BaselineResult.from_json(tmp_path / "folder" / "baseline.json") == result
    (tmp_path / "other.json").write_text('{"kind": "capacity"}')
    with pytest.raises(ValueError, match="is not the result of a baseline run"):
        BaselineResult.from_json(tmp_path / "other.json")


def document(comparison: RecognizerComparison) -> BaselineResult:
    return BaselineResult(1, "baseline", comparison, "AMD EPYC", 2, {"a": "1"}, "c", "2026")


def drawn(result: BaselineResult, folder: Path) -> tuple[int, str, Path]:
    """Return exit code and message of `baseline-plot`, and the path of its picture."""
    result.write(folder / "baseline.json")
    picture = folder / "docs" / "baseline.svg"
    command = ["baseline-plot", str(folder / "baseline.json"), "--output", str(picture)]
    done = CliRunner().invoke(app, command)
    return done.exit_code, done.stderr, picture


def test_the_picture_shows_every_recognizer_in_every_set(tmp_path: Path) -> None:
    exit_code, errors, picture = drawn(document(comparison()), tmp_path)
    assert exit_code == 0, errors
    # Text is drawn as paths, each with the text in a comment before it.
    words = picture.read_text()
    for each in comparison().sets:
        assert f"<!-- {each.name}" in words
    for name, percent in (("Earshot: demo", "84.0 %"), ("PocketSphinx 5.1.1", "59.0 %")):
        assert words.count(f"<!-- {name}") == len(comparison().sets)
        assert f"<!-- {percent}" in words


def test_without_streams_per_core_there_is_nothing_to_draw(tmp_path: Path) -> None:
    unseen = [replace(each, streams_per_core=None) for each in comparison().recognizers]
    shown = document(replace(comparison(), recognizers=unseen))
    exit_code, errors, picture = drawn(shown, tmp_path)
    assert (exit_code, picture.exists()) == (2, False)
    assert "no recognizer of this result has streams per core" in errors
