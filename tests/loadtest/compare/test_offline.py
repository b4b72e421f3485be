"""The offline report on a real Triton: service and original on the same files, in one run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.generations import copy_as
from tests.support.project import PROJECT, ExportedOffline, OfflineCheckpoint


@pytest.mark.slow
@pytest.mark.triton
def test_report_compares_the_service_with_transformers(
    exported_offline: ExportedOffline, offline_checkpoint: OfflineCheckpoint, tmp_path: Path
) -> None:
    copy_as("clinic", exported_offline("ctc"), tmp_path)
    command = [sys.executable, "-m", "loadtest", "offline", "--rounds", "2", "--json"]
    command += ["--repository", str(tmp_path), "--model", "clinic"]
    result = subprocess.run(
        [*command, "--checkpoint", str(offline_checkpoint("ctc"))],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    service = report["service"]
    stages = {f"{name}_offline" for name in ("feature_extractor", "encoder", "decoder")}
    assert set(service["cpu_ms_per_audio_s"]) == {"triton", "detokenizer_offline", *stages}
    assert set(service["mean_run"]) == stages
    assert {(run["batch"], run["threads"]) for run in report["transformers"]} == {
        (batch, threads) for batch in (1, 4, 8, 16) for threads in (1, 2)
    }
    best = max(run["audio_s_per_core_s"] for run in report["transformers"])
    assert report["ratio_per_core"] == pytest.approx(service["audio_s_per_core_s"] / best, rel=0.02)
    # The CPU time counted cannot exceed what the machine had.
    busy = service["audio_s_per_wall_s"] / service["audio_s_per_core_s"]
    assert 0 < busy <= 1.2 * report["cores"]
