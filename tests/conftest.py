"""Fixtures that several suites share: checkpoints and what `python -m export` makes of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.project import (
    OFFLINE_NAMES,
    PROJECT,
    Exported,
    ExportedOffline,
    HeardOffline,
    OfflineCheckpoint,
)

if TYPE_CHECKING:
    from export.checkpoint import Checkpoint
    from export.reference import ReferenceResult


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random streaming transducer."""
    from tests.support.checkpoints import write_random_checkpoint

    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "random")


@pytest.fixture(scope="session")
def exported(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export the random checkpoint for a chunk, once per session: chunk_ms -> repository."""
    from export.checkpoint import load_checkpoint
    from export.install import replacing
    from export.spec import Serving
    from export.streaming import export_streaming

    folder = tmp_path_factory.mktemp("exported")
    serving = Serving(max_streams=256, sequence_idle_ms=10_000, encoder_instances=2)

    def repository(chunk_ms: int) -> Path:
        path = folder / str(chunk_ms)
        if not path.exists():
            checkpoint = load_checkpoint(str(random_checkpoint))
            with replacing(path) as new:
                export_streaming(
                    checkpoint, chunk_ms, "onnxruntime", "fp32", new, serving, lambda step: None
                )
        return path

    return repository


@pytest.fixture(scope="session")
def speech_folder() -> Path:
    """Recordings to test with: EARSHOT_SPEECH, else those of this repository."""
    return Path(os.environ.get("EARSHOT_SPEECH", PROJECT / "recordings"))


@pytest.fixture(scope="session")
def offline_checkpoint(
    random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> OfflineCheckpoint:
    """A small random checkpoint of each kind that can hear whole utterances: kind -> folder."""
    from tests.support.parakeet_checkpoints import write_parakeet_checkpoint

    folder = tmp_path_factory.mktemp("parakeet")

    def checkpoint(kind: str) -> Path:
        if kind == "streaming":
            return random_checkpoint
        path = folder / kind
        return path if path.exists() else write_parakeet_checkpoint(path, kind)

    return checkpoint


@pytest.fixture(scope="session")
def exported_offline(
    offline_checkpoint: OfflineCheckpoint, tmp_path_factory: pytest.TempPathFactory
) -> ExportedOffline:
    """Export a random checkpoint for whole utterances, once per session: kind -> repository."""
    from export.checkpoint import load_checkpoint
    from export.install import replacing
    from export.offline.export import export_offline
    from export.offline.spec import OfflineServing

    folder = tmp_path_factory.mktemp("exported_offline")

    def repository(kind: str) -> Path:
        path = folder / kind
        if not path.exists():
            checkpoint = load_checkpoint(str(offline_checkpoint(kind)))
            with replacing(path) as new:
                export_offline(
                    checkpoint,
                    "onnxruntime",
                    "fp32",
                    new,
                    OfflineServing(),
                    lambda step: None,
                    OFFLINE_NAMES.get(kind, ""),
                )
        return path

    return repository


@pytest.fixture(scope="session")
def heard_offline() -> HeardOffline:
    """What transformers hears in the recordings of this repository: once for each checkpoint."""
    from export.offline.reference import transcribe
    from export.recordings import load_recordings

    known: dict[str, list[ReferenceResult]] = {}

    def heard(checkpoint: Checkpoint) -> list[ReferenceResult]:
        if checkpoint.sha256 not in known:
            speech = [recording.samples for recording in load_recordings()]
            known[checkpoint.sha256] = transcribe(checkpoint, speech)
        return known[checkpoint.sha256]

    return heard
