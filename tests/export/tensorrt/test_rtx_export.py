"""`--runtime tensorrt-rtx`: engines, manifest and table of an export without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from export.tensorrt.engine import tensorrt_version
from server.errors import BadRepository
from server.repository import read_repository
from tests.support.project import PROJECT


@pytest.fixture(scope="module")
def repository(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rtx") / "models"
    command = [sys.executable, "-m", "export", str(random_checkpoint), "--runtime=tensorrt-rtx"]
    command += ["--gpu=sm89,sm120", "--chunk-ms=160", f"--repository={folder}"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return folder


def test_every_stage_has_an_engine_and_a_place_in_the_manifest(repository: Path) -> None:
    manifest = json.loads((repository / "asr_streaming" / "1" / "manifest.json").read_text())
    facts = manifest["tensorrt_rtx"]
    assert facts["gpus"] == ["sm89", "sm120"]
    assert facts["version"] == tensorrt_version()
    assert set(facts["engines"]) == {"feature_extractor", "encoder", "decoder"}
    for stage, engine in facts["engines"].items():
        assert engine["plan_bytes"] == (repository / stage / "1" / "model.engine").stat().st_size
        assert engine["layers"] > 100
        assert engine["source_sha256"] == manifest["files"][f"{stage}/1/model.onnx"]
        assert f"{stage}/1/model.engine" in manifest["files"]
    assert manifest["parity"]["chain_token_difference"] == 0


def test_the_table_lists_every_engine(repository: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    command = [sys.executable, "-m", "export.tensorrt.table", str(repository), f"--record={record}"]
    printed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert printed.stdout.count("160 ms") == 3
    written = json.loads(record.read_text())
    assert written["gpus"] == ["sm89", "sm120"]
    assert [row["graph"] for row in written["engines"]] == [
        "feature_extractor",
        "encoder",
        "decoder",
    ]


def test_a_repository_without_engines_has_no_table(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "export.tensorrt.table", str(tmp_path)]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "no engines in" in result.stderr


def test_the_server_says_that_it_does_not_serve_them(repository: Path) -> None:
    with pytest.raises(
        BadRepository, match="exported for tensorrt-rtx, which this server does not"
    ):
        read_repository(repository)
