"""Fixtures that several suites share: checkpoints and their exports."""

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
    OfflineCheckpoint,
    OfflineReference,
)

if TYPE_CHECKING:
    from export.checkpoint import Checkpoint
    from export.streaming.reference import ReferenceResult


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
    from export.options import ExportOptions, Serving
    from export.streaming.export import export_streaming

    folder = tmp_path_factory.mktemp("exported")
    serving = Serving(max_streams=256, sequence_idle_ms=10_000, encoder_instances=2)

    def repository(chunk_ms: int) -> Path:
        path = folder / str(chunk_ms)
        if not path.exists():
            options = ExportOptions(
                str(random_checkpoint), path, chunk_ms=chunk_ms, serving=serving
            )
            with replacing(path) as new:
                export_streaming(
                    load_checkpoint(options.checkpoint), options, new, lambda step: None
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
    """Write a small random checkpoint of a kind for whole utterances: kind -> folder."""
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
    from export.options import ExportOptions

    folder = tmp_path_factory.mktemp("exported_offline")

    def repository(kind: str) -> Path:
        path = folder / kind
        if not path.exists():
            options = ExportOptions(
                str(offline_checkpoint(kind)), path, name=OFFLINE_NAMES.get(kind, "")
            )
            with replacing(path) as new:
                export_offline(load_checkpoint(options.checkpoint), options, new, lambda step: None)
        return path

    return repository


@pytest.fixture(scope="session")
def offline_reference() -> OfflineReference:
    """Transcribe the recordings with transformers, once for each checkpoint."""
    from export.offline.reference import transcribe
    from export.recordings import load_recordings

    known: dict[str, list[ReferenceResult]] = {}

    def reference(checkpoint: Checkpoint) -> list[ReferenceResult]:
        if checkpoint.sha256 not in known:
            speech = [recording.samples for recording in load_recordings()]
            known[checkpoint.sha256] = transcribe(checkpoint, speech)
        return known[checkpoint.sha256]

    return reference
