"""The CPU time of the client per chunk, in a process of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.compare.client_cost import CHUNK_MS, KINDS, _commit, _document, _measure
from loadtest.selftest.fake_service import Truth, fake_service
from tests.support.project import PROJECT


def test_the_client_is_measured_from_the_sources_that_are_named(tmp_path: Path) -> None:
    with fake_service(Truth(CHUNK_MS)) as url:
        kind = KINDS[-1]
        assert kind.options
        assert _measure(url, kind, 20) > 0
        (tmp_path / "earshot.py").write_text("raise SystemExit('another client')")
        with pytest.raises(ValueError, match="another client"):
            _measure(url, replace(kind, source=tmp_path), 20)


def test_the_document_has_the_median_and_the_least() -> None:
    document = _document({"default": [3.0, 1.0, 2.0]}, 100, 3)
    figures = {"median": 2.0, "least": 1.0, "rounds": [3.0, 1.0, 2.0]}
    assert document["cpu_us_per_chunk"] == {"default": figures}
    assert document["command"] == "python -m loadtest client --chunks 100 --rounds 3"


def test_another_version_is_named_by_its_commit(tmp_path: Path) -> None:
    assert len(_commit(PROJECT / "client" / "src")) >= 7
    assert _commit(tmp_path) == tmp_path.name
