"""Finding tritonserver: the order of the search, and the error without one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from server.errors import TritonNotFound
from server.locate import find_triton


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EARSHOT_TRITONSERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_the_wheel_is_complete() -> None:
    install = find_triton()
    assert install.binary.is_file()
    assert install.stub.is_file()


def test_the_variable_comes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        binary = tmp_path / name / "bin" / "tritonserver"
        binary.parent.mkdir(parents=True)
        binary.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "a" / "bin"))
    with pytest.raises(TritonNotFound, match=f"{tmp_path}/a/bin/tritonserver has no Python"):
        find_triton()
    monkeypatch.setenv("EARSHOT_TRITONSERVER", str(tmp_path / "b" / "bin" / "tritonserver"))
    with pytest.raises(TritonNotFound, match=f"{tmp_path}/b/bin/tritonserver has no Python"):
        find_triton()


def test_a_variable_that_points_nowhere_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARSHOT_TRITONSERVER", "/nowhere/tritonserver")
    with pytest.raises(TritonNotFound, match="not an executable file"):
        find_triton()


def test_all_places_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TritonNotFound, match=r"EARSHOT_TRITONSERVER, on PATH, .*pip install"):
        find_triton()


def test_numpy_2_is_refused_because_the_stub_would_pass_empty_strings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.locate.version", lambda package: "2.4.6")
    with pytest.raises(TritonNotFound, match=r"needs numpy 1, found 2\.4\.6"):
        find_triton()
