"""How many streams the memory of a GPU holds, from the sizes of an export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loadtest.cli import app
from loadtest.plan.memory import Footprint, NoFootprint, footprint_of, streams_that_fit


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """What an export of a state of 2 MB in 16 bits and of 40 KB in float32 leaves."""
    states = {
        "encoder": {"rows": 1000, "width": 1000, "dtype": "FP16"},
        "decoder": {"rows": 1, "width": 10_000, "dtype": "FP32"},
    }
    (tmp_path / "asr_streaming" / "1").mkdir(parents=True)
    manifest = tmp_path / "asr_streaming" / "1" / "manifest.json"
    manifest.write_text(json.dumps({"dims": {"state": states}}))
    (tmp_path / "recognizer" / "1").mkdir(parents=True)
    (tmp_path / "recognizer" / "1" / "model.pt2").write_bytes(bytes(1_000_000))
    (tmp_path / "recognizer" / "config.pbtxt").write_text("max_batch_size: 64")
    return tmp_path


def test_sizes_are_read_from_the_export(repository: Path) -> None:
    assert footprint_of(repository) == Footprint(2_040_000, 801_000_000, 64)


def test_engines_that_processes_do_not_share_count_each(repository: Path) -> None:
    config = repository / "recognizer" / "config.pbtxt"
    config.write_text("max_batch_size: 64 instance_group [ { count: 5 } ]")
    assert footprint_of(repository).engines == 1
    own = 'parameters { key: "engine" value: { string_value: "own" } }'
    config.write_text(f"{config.read_text()} {own}")
    assert footprint_of(repository).engines == 5
    assert "each of 5 engines" in CliRunner().invoke(app, ["fit", str(repository)]).stdout


def test_states_processes_and_graphs_share_the_memory() -> None:
    # 90 GB, less a process of 1 GB and 1.4 GB of graphs, hold states of 10 MB.
    assert streams_that_fit(Footprint(10e6, 1e9, 100), 100e9) == 8760
    assert streams_that_fit(Footprint(10e6, 1e9, 100, engines=5), 100e9) == 7800
    assert streams_that_fit(Footprint(10e6, 1e9, 100), 2e9) == 0


def test_the_command_names_the_types_of_gpus(repository: Path) -> None:
    done = CliRunner().invoke(app, ["fit", str(repository), "--json"])
    streams = json.loads(done.stdout)["streams"]
    assert streams["H200"] > streams["H100"] > streams["T4"]
    assert "H100" in CliRunner().invoke(app, ["fit", str(repository)]).stdout


def test_an_export_with_adapters_is_refused(repository: Path) -> None:
    manifest = repository / "asr_streaming" / "1" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "adapters": 128}))
    with pytest.raises(NoFootprint, match="without --adapters"):
        footprint_of(repository)


def test_an_export_in_stages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoFootprint, match="--runtime torch --layout fused"):
        footprint_of(tmp_path)
    done = CliRunner().invoke(app, ["fit", str(tmp_path)])
    assert done.exit_code == 2
