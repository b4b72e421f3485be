"""Fixtures that several suites share: checkpoints and what `python -m export` makes of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from project import PROJECT, Exported


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random streaming transducer."""
    from checkpoints import write_random_checkpoint

    return write_random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "random")


@pytest.fixture(scope="session")
def exported(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export the random checkpoint for a chunk, once per session: chunk_ms -> repository."""
    from export.checkpoint import load_checkpoint
    from export.spec import Serving
    from export.streaming import export_streaming

    folder = tmp_path_factory.mktemp("exported")
    serving = Serving(max_streams=256, sequence_idle_ms=10_000, encoder_instances=2)

    def repository(chunk_ms: int) -> Path:
        path = folder / str(chunk_ms)
        if not path.exists():
            checkpoint = load_checkpoint(str(random_checkpoint))
            export_streaming(
                checkpoint, chunk_ms, "onnxruntime", "fp32", path, serving, lambda step: None
            )
        return path

    return repository


@pytest.fixture(scope="session")
def speech_folder() -> Path:
    """Recordings to test with: EARSHOT_SPEECH, else those of this repository."""
    return Path(os.environ.get("EARSHOT_SPEECH", PROJECT / "recordings"))
