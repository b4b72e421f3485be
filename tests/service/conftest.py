"""What several service tests share: the offline export of the random checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def named_offline(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the random checkpoint as `clinic_v1_asr_offline`."""
    from export.checkpoint import load_checkpoint
    from export.install import replacing
    from export.offline.export import export_offline
    from export.offline.spec import OfflineServing

    repository = tmp_path_factory.mktemp("offline") / "models"
    with replacing(repository) as new:
        export_offline(
            load_checkpoint(str(random_checkpoint)),
            "onnxruntime",
            "fp32",
            new,
            OfflineServing(),
            lambda step: None,
            "clinic_v1",
        )
    return repository
