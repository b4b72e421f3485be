"""Adapters and heads beside their base: names that are taken, and what a new base outdates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from export.errors import UnsupportedOption
from export.shared import outdated, require_free

OURS, OTHERS = {"checkpoint": {"sha256": "abc"}}, {"checkpoint": {"sha256": "abd"}}
BASE: dict[str, Any] = OURS | {"chunk_ms": 560, "layout": "stages", "adapter_rank": 8}
ADAPTER: dict[str, Any] = {"base": "asr_streaming", "adapter": "clinic", "adapter_rank": 8}
HEADS: dict[str, Any] = {"base": "asr_streaming", "heads": {}, "chunk_ms": 560}


def install(repository: Path, name: str, manifest: dict[str, Any]) -> None:
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_what_fits_its_base_is_not_outdated(tmp_path: Path) -> None:
    install(tmp_path, "asr_streaming", BASE)
    install(tmp_path, "clinic_asr_streaming", ADAPTER | OURS)
    install(tmp_path, "orders_asr_streaming", HEADS | OURS)
    install(tmp_path, "lone_asr_streaming", OTHERS)
    (tmp_path / "encoder").mkdir()
    assert outdated(tmp_path, "asr_streaming") == {}


@pytest.mark.parametrize(
    ("manifest", "command"),
    [
        (ADAPTER | OTHERS, "python -m export.adapters"),
        (ADAPTER | OURS | {"adapter_rank": 16}, "python -m export.adapters"),
        (HEADS | OTHERS, "python -m export.heads"),
        (HEADS | OURS | {"chunk_ms": 160}, "python -m export.heads"),
    ],
)
def test_what_no_longer_fits_its_base(
    tmp_path: Path, manifest: dict[str, Any], command: str
) -> None:
    install(tmp_path, "asr_streaming", BASE)
    install(tmp_path, "clinic_asr_streaming", manifest)
    assert outdated(tmp_path, "asr_streaming") == {"clinic_asr_streaming": command}


@pytest.mark.parametrize(("kind", "other"), [("adapter", HEADS), ("heads", ADAPTER)])
def test_a_name_is_free_for_its_kind_only(tmp_path: Path, kind: str, other: dict[str, Any]) -> None:
    require_free(tmp_path, "clinic", kind)
    install(tmp_path, "clinic_asr_streaming", other)
    with pytest.raises(UnsupportedOption, match="'clinic' of another kind"):
        require_free(tmp_path, "clinic", kind)
    require_free(tmp_path, "clinic", {"adapter": "heads", "heads": "adapter"}[kind])
