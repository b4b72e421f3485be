"""Read the heads that `python -m training head` has written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from export.errors import UnsupportedCheckpoint, UnsupportedOption
from export.stages.heads import HeadWeights

WEIGHTS, DESCRIPTION = "heads.safetensors", "head.json"
FORMAT = 1


@dataclass(frozen=True)
class Head:
    """One classifier: its name, the labels that it chooses from, and its weights."""

    name: str
    labels: tuple[str, ...]
    weights: HeadWeights


@dataclass(frozen=True)
class HeadFiles:
    """The heads of one folder, and the encoder that they were trained on."""

    folder: Path
    heads: tuple[Head, ...]
    base_sha256: str
    """Hash of the base's `model.safetensors`."""
    lookahead: int


def read_heads(folder: Path) -> HeadFiles:
    """Read a folder of heads.

    Raises:
        UnsupportedCheckpoint: it is missing, incomplete, or of another format.
    """
    try:
        description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        if description["format"] != FORMAT:
            raise UnsupportedCheckpoint(
                f"{folder} has heads of format {description['format']}, expected {FORMAT}: train "
                "them again with this release"
            )
        tensors = load_file(folder / WEIGHTS)
        heads = tuple(
            Head(
                entry["name"],
                tuple(entry["labels"]),
                HeadWeights(
                    *(tensors[f"{entry['name']}.{part}"] for part in _PARTS),
                    score_bound=float(description["score_bound"]),
                ),
            )
            for entry in description["heads"]
        )
        return HeadFiles(folder, heads, description["base_sha256"], description["lookahead"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UnsupportedCheckpoint(
            f"expected heads of `python -m training head` in {folder}: {error!r}"
        ) from error


_PARTS = ("query", "query_bias", "weight", "bias")


def joined(folders: Sequence[HeadFiles], only: Sequence[str]) -> tuple[Head, ...]:
    """Return the heads of all folders, or only those named in `only`.

    Raises:
        UnsupportedOption: two heads have the same name, or a named head does not exist.
    """
    heads = tuple(head for files in folders for head in files.heads)
    names = [head.name for head in heads]
    for name in names:
        if names.count(name) > 1:
            raise UnsupportedOption(
                f"two heads are called '{name}': expected one of each name in one recognizer"
            )
    known = {head.name: head for head in heads}
    for name in only:
        if name not in known:
            raise UnsupportedOption(f"no head is called '{name}'; there are {', '.join(known)}")
    return tuple(known[name] for name in only) or heads
