"""The offline report on a real Triton: service and original on the same files, in one run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtest.audio.recordings import load_clips
from loadtest.compare.whole_files import send_files
from loadtest.service.server import serving
from server.backends.earshot.earshot_runtime import heartbeat
from tests.support.generations import FIRST, copy_as
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
    assert set(service["cpu_ms_per_audio_s"]) == {"triton", *stages}
    assert set(service["mean_run"]) == stages
    assert {(run["batch"], run["threads"]) for run in report["transformers"]} == {
        (batch, threads) for batch in (1, 4, 8, 16) for threads in (1, 2)
    }
    best = max(run["audio_s_per_core_s"] for run in report["transformers"])
    assert report["ratio_per_core"] == pytest.approx(service["audio_s_per_core_s"] / best, rel=0.02)
    # The CPU time counted cannot exceed what the machine had.
    busy = service["audio_s_per_wall_s"] / service["audio_s_per_core_s"]
    assert 0 < busy <= 1.2 * report["cores"]


@pytest.mark.slow
@pytest.mark.triton
def test_files_are_sent_to_adapters_in_turn(
    exported_offline: ExportedOffline, tmp_path: Path
) -> None:
    repository = shutil.copytree(exported_offline("streaming"), tmp_path / "models")
    command = [sys.executable, "-m", "export.adapters.random", "--count", "3"]
    command += ["--repository", str(repository), "--base", FIRST]
    subprocess.run(command, cwd=PROJECT, check=True, timeout=240)
    files = [clip.samples for clip in load_clips(PROJECT / "recordings")][:4]
    names = [f"random_{number}" for number in range(3)]
    with serving(repository) as server:
        run = send_files(server, files, at_once=4, rounds=2, model=FIRST, adapters=names)
        time.sleep(2 * heartbeat.INTERVAL_S)
        loaded = server.counter("earshot_loaded_adapters_total")
    assert loaded[f"{FIRST}_decoder_offline"] == 3
    assert loaded[f"{FIRST}_encoder_offline"] >= 3
    assert run.audio_s == pytest.approx(2 * sum(map(len, files)) / 16_000)
    assert {"encoder_offline", "decoder_offline"} < set(run.cpu_s)
