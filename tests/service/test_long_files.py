"""Long files through a real Triton with the real client: joined right, and with flat memory.

The hour is slow. EARSHOT_SPEECH names a folder with more recordings than those of this repository,
EARSHOT_CHECKPOINT a checkpoint to take for the demo one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import earshot
import numpy as np
import psutil
import pytest
import soundfile
from earshot import _recognition
from earshot._sync import open_repository

from export.audio import SAMPLE_RATE_HZ
from export.checkpoint import Checkpoint, load_checkpoint
from export.install import replacing
from export.offline.export import export_offline
from export.options import ExportOptions
from export.recordings import load_recordings
from server.launch import running
from server.ports import choose_endpoints
from tests.support.long_files import (
    assert_joined,
    count_shared_tokens,
    pieces_of,
    reference_tokens,
    with_pauses,
    without_pauses,
)
from tests.support.project import DEMO_CHECKPOINT, ExportedOffline

pytestmark = pytest.mark.triton

HOUR = 3600 * SAMPLE_RATE_HZ
BREATHLESS = 300 * SAMPLE_RATE_HZ
FLAT_BYTES = 32 * 2**20
"""An hour of samples is 230 MB as the client holds them, 115 MB as the file does."""


@dataclass(frozen=True)
class Service:
    """A real Triton that serves the demo checkpoint for whole files."""

    url: str
    checkpoint: Checkpoint


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    repository = tmp_path_factory.mktemp("models") / "demo"
    checkpoint = load_checkpoint(os.environ.get("EARSHOT_CHECKPOINT", str(DEMO_CHECKPOINT)))
    with replacing(repository) as new:
        options = ExportOptions(checkpoint.name, repository)
        export_offline(checkpoint, options, new, lambda step: None)
    with running(repository) as triton:
        yield Service(triton.grpc_url, checkpoint)


@pytest.fixture(scope="module")
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.slow
def test_without_pauses_pieces_overlap_and_are_joined(
    service: Service,
) -> None:
    speech = [recording.samples for recording in load_recordings()]
    samples = np.tile(without_pauses(speech), 4)
    pieces = pieces_of(samples)
    assert sum(piece.overlap_samples > 0 for piece in pieces) >= 5
    with earshot.connect(service.url) as client:
        transcript = client.transcribe(samples, sample_rate_hz=SAMPLE_RATE_HZ)
    references = reference_tokens(service.checkpoint, pieces)
    assert count_shared_tokens(pieces, references) > 50
    assert_joined(transcript, pieces, references)


def test_what_a_server_no_longer_serves_is_reported_and_the_rest_delivered(
    exported_offline: ExportedOffline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model goes while a file is under way: its last pieces fail, and stay failed."""
    monkeypatch.setattr(_recognition, "FIRST_DELAY_S", 0.01)
    speech = np.concatenate([recording.samples for recording in load_recordings()])
    samples = np.tile(speech, 6)
    with (
        running(exported_offline("streaming"), model_control=True) as triton,
        earshot.connect(triton.grpc_url) as client,
    ):

        def unload(done_s: float) -> None:
            if done_s > 60 and not gone.is_set():
                gone.set()
                with open_repository(triton.grpc_url) as repository:
                    repository.unload("clinic_v1")

        gone = threading.Event()
        got = client.transcribe(
            samples, sample_rate_hz=SAMPLE_RATE_HZ, at_once=1, on_progress=unload
        )
    assert got.failed
    assert got.failed[-1].end_s == pytest.approx(len(samples) / SAMPLE_RATE_HZ)
    assert all("clinic_v1_asr_offline" in span.reason for span in got.failed)
    delivered_ms = 1000 * got.failed[0].start_s
    assert delivered_ms > 60_000
    assert got.words
    assert all(word.start_ms <= delivered_ms for word in got.words)


def test_a_file_waits_for_a_server_that_drains_and_comes_back(
    exported_offline: ExportedOffline,
) -> None:
    """SIGTERM comes when a part of the file is done; the rest waits for the next server."""
    repository = exported_offline("streaming")
    speech = np.concatenate([recording.samples for recording in load_recordings()])
    samples = np.tile(speech, 3)
    port = choose_endpoints("127.0.0.1", grpc_port=None, metrics_port=None, http_port=None)
    begun, stopped = threading.Event(), threading.Event()

    def wait_for_the_end(done_s: float) -> None:
        begun.set()
        assert stopped.wait(60)

    def transcribe(**arguments: Any) -> earshot.Transcript:
        with earshot.connect(port.grpc_url) as client:
            return client.transcribe(samples, sample_rate_hz=SAMPLE_RATE_HZ, at_once=2, **arguments)

    with ThreadPoolExecutor(1) as pool:
        with running(repository, grpc_port=port.grpc_port) as triton:
            undisturbed = transcribe()
            disturbed = pool.submit(transcribe, on_progress=wait_for_the_end)
            assert begun.wait(60)
            triton.process.terminate()
            assert triton.process.wait(timeout_s=60) == 0
        stopped.set()
        with running(repository, grpc_port=port.grpc_port):
            got = disturbed.result(timeout=120)
    assert got.failed == ()
    assert got.words
    assert got == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_hour(
    service: Service, random: np.random.Generator, speech_folder: Path, tmp_path: Path
) -> None:
    """Natural pauses, and minutes without any in between; the command line, as users call it."""
    speech = [recording.samples for recording in load_recordings(speech_folder)]
    spoken = np.resize(with_pauses(speech, random), HOUR)
    start = HOUR // 2
    spoken[start : start + BREATHLESS] = without_pauses([spoken[start : start + BREATHLESS]])
    path = tmp_path / "hour.wav"
    soundfile.write(path, spoken, SAMPLE_RATE_HZ, subtype="FLOAT")
    report, memory = transcribe_watched(path, service.url)
    pieces = pieces_of(spoken)
    assert sum(piece.overlap_samples > 0 for piece in pieces) >= 5
    with earshot.connect(service.url) as client:
        transcript = client.transcribe(path)
    assert [word.text for word in transcript.words] == [word["word"] for word in report["words"]]
    assert_joined(transcript, pieces, reference_tokens(service.checkpoint, pieces))
    assert report["failed"] == []
    assert report["duration_s"] == 3600
    settled = memory[len(memory) // 5]
    print(
        f"an hour: {len(pieces)} pieces, {report['audio_s_per_s']} times real time, resident "
        f"memory {settled / 2**20:.0f} MB after a fifth of it, {max(memory) / 2**20:.0f} at most"
    )
    assert max(memory) - settled < FLAT_BYTES


def transcribe_watched(path: Path, url: str) -> tuple[dict, list[int]]:
    """The command's JSON, and its resident memory ten times a second."""
    earshot_command = Path(sys.executable).with_name("earshot")
    command = [earshot_command, "transcribe", "--json", str(path), "--url", url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    memory: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            try:
                memory.append(psutil.Process(process.pid).memory_info().rss)
            except psutil.NoSuchProcess:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    ended.set()
    watcher.join()
    assert process.returncode == 0
    return json.loads(output), memory
