"""Heads come and go on a real Triton beside live streams of their base, and label as offline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import earshot
import numpy as np
import pytest
import soundfile
import torch
from earshot._cli import app
from typer.testing import CliRunner

from export.audio import LEAD_SAMPLES, SAMPLE_RATE_HZ
from export.checkpoint import Checkpoint, load_checkpoint
from export.heads.base import RUNTIMES
from export.heads.export import HeadOptions, export_heads
from export.heads.files import read_heads
from export.heads.parity import probabilities
from export.install import replacing
from export.options import ExportOptions, Serving
from export.recordings import load_recordings
from export.streaming.export import export_streaming
from export.streaming.reference import ReferenceResult, transcribe
from server.launch import Triton, running
from tests.support.fake_recognizer import PATIENT
from tests.support.heads import write_random_heads
from tests.support.project import Exported

pytestmark = pytest.mark.triton

CHUNK_MS, FRAMES, WIDTH = 320, 4, 32
CHUNK = SAMPLE_RATE_HZ * CHUNK_MS // 1000
NAME = "orders"


@dataclass(frozen=True)
class Utterance:
    """Speech and what transformers makes of it."""

    samples: np.ndarray
    reference: ReferenceResult


@pytest.fixture(scope="module")
def checkpoint(random_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(str(random_checkpoint))


@pytest.fixture(scope="module")
def heads(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads") / "heads"
    return write_random_heads(folder, random_checkpoint, WIDTH, FRAMES - 1)


@pytest.fixture(scope="module")
def utterances(checkpoint: Checkpoint) -> list[Utterance]:
    speech = [recording.samples[: 4 * SAMPLE_RATE_HZ] for recording in load_recordings()[:4]]
    references = transcribe(checkpoint, speech, lookahead=FRAMES - 1)
    return [Utterance(*pair) for pair in zip(speech, references, strict=True)]


@pytest.fixture(scope="module", params=RUNTIMES)
def repository(
    request: pytest.FixtureRequest,
    exported: Exported,
    checkpoint: Checkpoint,
    random_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A repository of the base alone, which may be added to."""
    folder = tmp_path_factory.mktemp("heads") / "models"
    if request.param == "onnxruntime":
        return shutil.copytree(exported(CHUNK_MS), folder)
    serving = Serving(max_streams=16, max_batch_size=8)
    options = ExportOptions(
        str(random_checkpoint), folder, chunk_ms=CHUNK_MS, runtime=request.param, serving=serving
    )
    with replacing(folder) as new:
        export_streaming(checkpoint, options, new, lambda step: None)
    return folder


@pytest.fixture(scope="module")
def triton(repository: Path) -> Iterator[Triton]:
    with running(repository, model_control=True) as triton:
        yield triton


def models(triton: Triton, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["models", *arguments, "--url", triton.grpc_url])
    assert done.exit_code == 0, done.output
    return done.stdout


def expected_labels(heads: Path, encoded: np.ndarray) -> dict[str, earshot.Label]:
    """Return the labels of an attention over all frames."""
    labels: dict[str, earshot.Label] = {}
    for head in read_heads(heads).heads:
        likely = probabilities(head.weights, torch.from_numpy(encoded))
        labels[head.name] = earshot.Label(head.labels[int(likely.argmax())], float(likely.max()))
    return labels


def assert_labelled(
    got: earshot.ChunkResult | earshot.Transcript, expected: dict[str, earshot.Label]
) -> None:
    assert list(got.labels) == list(expected)
    for name, label in expected.items():
        assert got.labels[name].text == label.text
        assert got.labels[name].probability == pytest.approx(label.probability, abs=5e-3)


def test_heads_are_loaded_and_retired_beside_live_streams(
    triton: Triton,
    repository: Path,
    checkpoint: Checkpoint,
    random_checkpoint: Path,
    heads: Path,
    utterances: list[Utterance],
    tmp_path: Path,
) -> None:
    """One stream of the base is open from before to after; its tokens are those of transformers."""
    options = HeadOptions((heads,), str(random_checkpoint), NAME, "", repository)
    export_heads(options, checkpoint, lambda step: None)
    live = utterances[0]
    pieces = iter(np.array_split(live.samples, 5))
    with (
        earshot.connect(triton.grpc_url, timeouts=PATIENT) as base,
        base.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream,
    ):
        [*_, before] = stream.send(next(pieces))
        assert before.labels == {}
        assert models(triton, "load", NAME) == f"{NAME} is live\n"
        stream.send(next(pieces))
        _label_streams(triton, heads, utterances)
        stream.send(next(pieces))
        _label_a_file(triton, heads, utterances[1], tmp_path / "speech.wav")
        stream.send(next(pieces))
        quickly = ("--metrics-url", triton.metrics_url, "--quiet-s", "2", "--timeout-s", "20")
        assert models(triton, "retire", NAME, *quickly) == f"{NAME} is retired\n"
        stream.send(next(pieces))
        transcript = stream.finish()
    assert [token.id for token in transcript.tokens] == live.reference.tokens
    assert transcript.labels == {}


def _label_streams(triton: Triton, heads: Path, utterances: list[Utterance]) -> None:
    """Streams side by side get their own labels, after every chunk and in the end."""
    with earshot.connect(triton.grpc_url, model=NAME, timeouts=PATIENT) as client:
        assert [head.name for head in client.info.heads] == ["size", "native"]
        streams = [client.stream(sample_rate_hz=SAMPLE_RATE_HZ) for _ in utterances]
        first = CHUNK - LEAD_SAMPLES
        ends = range(first, max(len(u.samples) for u in utterances) + CHUNK, CHUNK)
        for chunk, end in enumerate(ends):
            start = end - CHUNK if chunk else 0
            for stream, utterance in zip(streams, utterances, strict=True):
                for result in stream.send(utterance.samples[start:end]):
                    frames = utterance.reference.encoded[: FRAMES * (result.index + 1)]
                    assert_labelled(result, expected_labels(heads, frames))
        for stream, utterance in zip(streams, utterances, strict=True):
            transcript = stream.finish()
            assert [token.id for token in transcript.tokens] == utterance.reference.tokens
            assert_labelled(transcript, expected_labels(heads, utterance.reference.encoded))


def _label_a_file(triton: Triton, heads: Path, utterance: Utterance, path: Path) -> None:
    soundfile.write(path, utterance.samples, SAMPLE_RATE_HZ, subtype="FLOAT")
    server = ["--url", triton.grpc_url]
    done = CliRunner().invoke(app, ["transcribe", "--json", str(path), "--model", NAME, *server])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)["labels"]
    for name, label in expected_labels(heads, utterance.reference.encoded).items():
        assert shown[name]["label"] == label.text
        assert shown[name]["probability"] == pytest.approx(label.probability, abs=5e-3)
    plain = CliRunner().invoke(app, ["transcribe", "--json", str(path), *server])
    assert "labels" not in json.loads(plain.stdout)
    info = CliRunner().invoke(app, ["info", "--json", "--model", NAME, *server])
    assert json.loads(info.stdout)["heads"]["native"] == ["no", "yes"]
