"""A recognizer without a network has the hops of the exported one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.checkpoint import load_checkpoint
from export.options import ExportOptions, Serving
from export.streaming.config import config_files
from export.streaming.export import build_stages, spec_of
from loadtest.compare.hop import HopCost
from loadtest.compare.null_engine import NotFused, write_null_repository
from server.backends.earshot.earshot_runtime.engines import open_engine
from server.backends.earshot.earshot_runtime.spec import StageSpec
from server.engine_time import stage_spec
from server.repository import read_repository


@pytest.fixture
def exported(random_checkpoint: Path, tmp_path: Path) -> Path:
    """Return the configs of a fused recognizer for torch, without its programs."""
    checkpoint = load_checkpoint(str(random_checkpoint))
    options = ExportOptions(
        str(random_checkpoint),
        chunk_ms=320,
        runtime="torch",
        layout="fused",
        serving=Serving(max_streams=100, encoder_instances=3, own_engines=True),
    )
    folder = tmp_path / "exported"
    for name, text in config_files(
        spec_of(checkpoint, build_stages(checkpoint, 4), options)
    ).items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).parent.joinpath("1").mkdir()
        (folder / name).write_text(text)
    (folder / "recognizer" / "1" / "model.pt2").touch()
    (folder / "recognizer" / "1" / "tokenizer.json").write_text("{}")
    return folder


def null_spec(exported: Path, folder: Path, *, shared: bool) -> StageSpec:
    write_null_repository(
        exported, folder, instances=2, shared=shared, max_streams=50, max_batch=32
    )
    return stage_spec(folder, "recognizer")


def test_it_is_served_like_the_exported_one(exported: Path, tmp_path: Path) -> None:
    before = stage_spec(exported, "recognizer")
    spec = null_spec(exported, tmp_path / "null", shared=False)
    assert (spec.inputs, spec.responses) == (before.inputs, before.responses)
    assert (spec.instances, spec.shares_engine, spec.max_batch) == (2, False, 32)
    found = read_repository(tmp_path / "null")
    assert (found.runtime, found.max_streams) == ("onnxruntime", 50)
    assert not list((tmp_path / "null").rglob("*.pt2"))


def test_its_processes_share_an_engine_if_wanted(exported: Path, tmp_path: Path) -> None:
    assert null_spec(exported, tmp_path / "null", shared=True).shares_engine


def test_it_outputs_two_tokens_for_each_chunk(exported: Path, tmp_path: Path) -> None:
    spec = null_spec(exported, tmp_path / "null", shared=False)
    engine = open_engine(tmp_path / "null" / "recognizer" / "1", spec)
    engine.run(np.array([3, 9, 4]), np.array([True, True, False]))
    assert engine.outputs["TOKEN_COUNT"][:3].tolist() == [[2], [2], [2]]
    assert engine.outputs["TOKENS"][2, :3].tolist() == [1, 2, 0]


def test_a_request_is_the_sum_of_its_parts() -> None:
    cost = HopCost(100, 2, False, "pass", 20.0, 180.0, 3.0, 300.0, 200.0, 100.0)
    assert cost.total_us == 600


def test_a_repository_of_stages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFused, match="--layout fused"):
        write_null_repository(
            tmp_path, tmp_path / "n", instances=1, shared=False, max_streams=1, max_batch=1
        )
