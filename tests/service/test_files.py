"""Whole files on a real Triton, short and long: transcripts match transformers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import earshot
import numpy as np
import pytest
import soundfile
from earshot._cli import app
from earshot._cutter import Cutter
from typer.testing import CliRunner

from export.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ
from export.checkpoint import Checkpoint, load_checkpoint
from export.offline.reference import transcribe
from export.recordings import load_recordings
from tests.support.fake_recognizer import PATIENT
from tests.support.project import PROJECT, ExportedOffline, Served

pytestmark = pytest.mark.triton

LONGEST = 30 * SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Service:
    """A real Triton that serves the offline ensemble of a checkpoint, by name."""

    url: str
    checkpoint: Checkpoint


@pytest.fixture(scope="module")
def service(random_checkpoint: Path, exported_offline: ExportedOffline, served: Served) -> Service:
    triton = served(exported_offline("streaming"))
    return Service(triton.grpc_url, load_checkpoint(str(random_checkpoint)))


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    return [recording.samples for recording in load_recordings()]


def test_transcripts_of_recordings_match_the_reference(
    service: Service, speech: list[np.ndarray]
) -> None:
    references = transcribe(service.checkpoint, speech)
    assert sum(len(reference.tokens) for reference in references) > 100
    with earshot.connect(service.url, model="clinic", timeouts=PATIENT) as client:
        for samples, expected in zip(speech, references, strict=True):
            got = client.transcribe(samples, sample_rate_hz=SAMPLE_RATE_HZ)
            assert [token.id for token in got.tokens] == expected.tokens
            assert [token.frame for token in got.tokens] == expected.token_frames


def test_a_long_file_is_its_pieces(
    service: Service, speech: list[np.ndarray], tmp_path: Path
) -> None:
    """Tokens and times of each piece are the reference's, counted from the start of the file."""
    silence = np.zeros(SAMPLE_RATE_HZ, np.float32)
    samples = np.concatenate([part for _ in range(4) for s in speech for part in (s, silence)])
    path = tmp_path / "long.wav"
    soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype="FLOAT")
    cutter = Cutter(SAMPLE_RATE_HZ, FRAME_SAMPLES, LONGEST)
    pieces = [*cutter.push(samples), *cutter.end()]
    assert len(pieces) >= 8
    assert not any(piece.overlap_samples for piece in pieces)
    expected: list[tuple[int, int]] = []
    for piece, reference in zip(
        pieces, transcribe(service.checkpoint, [piece.samples for piece in pieces]), strict=True
    ):
        first = piece.start_sample // FRAME_SAMPLES
        frames = [first + frame for frame in reference.token_frames]
        expected += zip(reference.tokens, frames, strict=True)
    with earshot.connect(service.url, timeouts=PATIENT) as client:
        got = client.transcribe(path)
    assert got.failed == ()
    assert [(token.id, token.frame) for token in got.tokens] == expected


@pytest.mark.parametrize("samples", [1, 319, 321, 5000])
def test_what_is_hardly_audio(service: Service, speech: list[np.ndarray], samples: int) -> None:
    with earshot.connect(service.url, timeouts=PATIENT) as client:
        transcript = client.transcribe(speech[0][:samples], sample_rate_hz=SAMPLE_RATE_HZ)
    assert transcript.failed == ()
    assert transcript.duration_s == samples / SAMPLE_RATE_HZ


def test_the_command_line_on_a_server_that_only_recognizes_files(
    service: Service, tmp_path: Path
) -> None:
    def run(*arguments: str):
        return CliRunner().invoke(app, [*arguments, "--url", service.url])

    recording = str(PROJECT / "recordings" / "jfk" / "jfk.flac")
    report = json.loads(run("transcribe", "--json", recording).stdout)
    assert report["mode"] == "offline"
    assert report["text"]
    target = tmp_path / "jfk.vtt"
    assert run("transcribe", "--format", "vtt", "-o", str(target), recording).exit_code == 0
    shown = [line for line in target.read_text().splitlines()[1:] if line and "-->" not in line]
    # Words longer than a line are broken; blanks apart it is the text.
    assert "".join("".join(shown).split()) == "".join(report["text"].split())
    assert run("transcribe", "--streaming", recording).exit_code == 2
    listed = json.loads(run("models", "--json").stdout)
    assert [(m["name"], m["mode"], m["state"]) for m in listed] == [
        ("clinic_v1", "offline", "READY")
    ]
