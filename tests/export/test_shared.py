"""Adapters and heads beside their base: names that are taken, and what a new base outdates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from export.checkpoint import Checkpoint
from export.errors import UnsupportedCheckpoint, UnsupportedOption
from export.manifest import file_sha256
from export.shared import outdated, read_base, require_free, require_trained_on

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


def test_models_that_a_new_base_no_longer_has(tmp_path: Path) -> None:
    """The base was exported in another layout, or with another set of models."""
    install(tmp_path, "asr_streaming", BASE)
    install(tmp_path, "clinic_asr_streaming", ADAPTER | OURS)
    step = 'model_name: "{}"'
    for ensemble, models in (
        ("asr_streaming", ["encoder", "decoder"]),
        ("clinic_asr_streaming", ["encoder", "decoder", "detokenizer"]),
    ):
        text = "\n".join(map(step.format, models))
        (tmp_path / ensemble / "config.pbtxt").write_text(text)
    for model in ("encoder", "decoder"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "config.pbtxt").touch()
    expected = {"clinic_asr_streaming": "python -m export.adapters"}
    assert outdated(tmp_path, "asr_streaming") == expected
    (tmp_path / "detokenizer").mkdir()
    (tmp_path / "detokenizer" / "config.pbtxt").touch()
    assert outdated(tmp_path, "asr_streaming") == {}


@pytest.mark.parametrize(("kind", "other"), [("adapter", HEADS), ("heads", ADAPTER)])
def test_a_name_is_free_for_its_kind_only(tmp_path: Path, kind: str, other: dict[str, Any]) -> None:
    require_free(tmp_path, "clinic", kind)
    install(tmp_path, "clinic_asr_streaming", other)
    with pytest.raises(UnsupportedOption, match="'clinic' of another kind"):
        require_free(tmp_path, "clinic", kind)
    require_free(tmp_path, "clinic", {"adapter": "heads", "heads": "adapter"}[kind])


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "has no recognizer clinic_asr_streaming: export it first"),
        (ADAPTER | OURS, "shares those of asr_streaming: choose that one with --base"),
        (HEADS | OURS, "shares those of asr_streaming: choose that one with --base"),
        (BASE | {"checkpoint": {"sha256": "abd", "name": "other"}}, r"other weights \(other\)"),
    ],
)
def test_a_base_whose_models_cannot_be_shared(
    tmp_path: Path, manifest: dict[str, Any] | None, message: str
) -> None:
    ours = Checkpoint("ours", model=None, processor=None, sha256="abc")
    if manifest is not None:
        install(tmp_path, "clinic_asr_streaming", manifest)
    with pytest.raises(UnsupportedOption, match=message):
        read_base(tmp_path, "clinic_asr_streaming", ours)


def test_a_checkpoint_beside_which_something_was_trained(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    trained_on = "9a129edd61ef7bec99f6eebe8eb1a3aa3a9d4b5b4cc43edf0e1bca4ae03d8b6c"
    with pytest.raises(UnsupportedCheckpoint, match=f"sha256 {trained_on[:12]}, those of"):
        require_trained_on(tmp_path / "heads", trained_on, tmp_path)
    with pytest.raises(UnsupportedCheckpoint, match="expected the folder of the checkpoint"):
        require_trained_on(tmp_path / "heads", trained_on, tmp_path / "nothing")
    require_trained_on(tmp_path / "heads", file_sha256(tmp_path / "model.safetensors"), tmp_path)
