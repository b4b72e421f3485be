"""Temporary folders: those of killed launchers are removed, others stay."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from server.errors import TritonDied
from server.workspace import BACKENDS, workspace


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_folder_is_gone_with_its_launcher_and_not_before() -> None:
    with workspace() as mine, workspace() as other:
        assert mine.is_dir()
        assert other.is_dir()
    assert not mine.exists()
    assert not other.exists()


def test_the_log_of_a_server_that_died_stays() -> None:
    with pytest.raises(TritonDied), workspace() as folder:
        (folder / BACKENDS).mkdir()
        (folder / "triton.log").write_text("why")
        raise TritonDied
    with workspace():
        assert [path.name for path in folder.iterdir()] == ["triton.log"]


def test_a_folder_of_something_else_stays(tmp_path: Path) -> None:
    foreign = tmp_path / "earshot-notes"
    foreign.mkdir()
    with workspace():
        pass
    assert foreign.is_dir()
