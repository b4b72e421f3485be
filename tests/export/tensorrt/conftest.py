"""Graphs of a small checkpoint in every precision, written once for all tests that need them."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.checkpoint import Checkpoint, load_checkpoint
from export.tensorrt.export import write_graphs
from tests.support.checkpoints import write_random_checkpoint
from tests.support.engine_table import RecordEngine, recorder
from tests.support.tensorrt_graphs import FlatGraphs, Graphs, stages_and_spec
from tests.support.workers import made_once, shared_folder


@pytest.fixture(scope="session")
def many_tokens(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A checkpoint that often emits the most symbols per frame.

    With one layer in its encoder: its graphs are written in every precision.
    """

    def write(folder: Path) -> None:
        write_random_checkpoint(folder, blank_bias=0.0, encoder_layers=1)

    path = made_once(shared_folder(tmp_path_factory, "checkpoint") / "many-tokens", write)
    return load_checkpoint(str(path))


@pytest.fixture(scope="session")
def flat_graphs(
    many_tokens: Checkpoint, tmp_path_factory: pytest.TempPathFactory, many_graphs: None
) -> FlatGraphs:
    """Write the graphs of `many_tokens`, once per session: precision -> graphs."""
    root = shared_folder(tmp_path_factory, "flat_graphs")

    def graphs(precision: str) -> Graphs:
        stages, spec = stages_and_spec(many_tokens, precision)
        folder = made_once(
            root / precision, lambda path: write_graphs(path, stages, spec, [], lambda step: None)
        )
        return Graphs(folder, stages, spec)

    return graphs


@pytest.fixture
def record_engine(request: pytest.FixtureRequest) -> RecordEngine:
    """Add an engine to the table at the end of the run: graph, precision, facts."""
    return recorder(request)
