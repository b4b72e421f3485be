"""Read labelled recordings, with one head for each column of labels.

A column whose cells contain several values, separated by `|`, becomes one head for each value, with
the labels `no` and `yes`, because its values do not exclude each other.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.adapt.errors import CannotAdapt
from training.adapt.recordings import Split, check_manifest, require_files, split
from training.features import Recording
from training.text import normalize

SEPARATOR = "|"
NO_YES = ("no", "yes")


@dataclass(frozen=True)
class Question:
    """The task of one head: its name, and the labels that it chooses from."""

    name: str
    labels: tuple[str, ...]
    column: str
    value: str | None = None
    """The value that a yes/no head detects; None if the labels are the values of the column."""

    def answer(self, cell: str) -> int:
        """Return the index of the label of a cell of the column, or -1 for an unknown value."""
        if self.value is not None:
            return int(self.value in _values(cell))
        return self.labels.index(cell) if cell in self.labels else -1


@dataclass(frozen=True)
class Examples:
    """Recordings and the cells of their columns."""

    recordings: list[Recording]
    cells: list[dict[str, str]]

    def answers(self, questions: Sequence[Question]) -> Tensor:
        """Return the index of the right label of each head, int64 [recordings, heads]."""
        return torch.tensor(
            [
                [question.answer(cell[question.column]) for question in questions]
                for cell in self.cells
            ]
        )

    def part(self, recordings: Sequence[Recording]) -> "Examples":
        """Return the examples of some of the recordings."""
        wanted = {recording.path for recording in recordings}
        chosen = [i for i, recording in enumerate(self.recordings) if recording.path in wanted]
        return Examples([self.recordings[i] for i in chosen], [self.cells[i] for i in chosen])


def read_examples(folder: Path, columns: Sequence[str]) -> Examples:
    """Read the manifest of `folder`: columns file, those in `columns`, and transcript and speaker.

    Raises:
        CannotAdapt: it is missing or malformed, or a listed file is missing.
    """
    manifest = folder / "manifest.tsv"
    check_manifest(manifest, ("file", *columns))
    with manifest.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    recordings = [
        Recording(
            folder / row["file"],
            row.get("speaker") or "",
            # Without named speakers, recordings are split by sentence or, without transcripts, by
            # file.
            normalize(row.get("transcript") or "") or row["file"],
        )
        for row in rows
    ]
    require_files(manifest, recordings)
    return Examples(recordings, [{column: row[column] for column in columns} for row in rows])


def questions_of(examples: Examples, columns: Sequence[str]) -> list[Question]:
    """Return the heads for the values of the columns.

    Raises:
        CannotAdapt: a column has only one value, so there is nothing to distinguish.
    """
    return [question for column in columns for question in _questions(examples, column)]


def _questions(examples: Examples, column: str) -> list[Question]:
    cells = {cell[column] for cell in examples.cells}
    if any(SEPARATOR in cell for cell in cells):
        values = sorted({value for cell in cells for value in _values(cell)})
        return [Question(f"{column}={value}", NO_YES, column, value) for value in values]
    if len(cells) < 2:
        raise CannotAdapt(
            f"expected at least two values in column {column}, got {sorted(cells) or 'none'}"
        )
    return [Question(column, tuple(sorted(cells)), column)]


def _values(cell: str) -> set[str]:
    return {value.strip() for value in cell.split(SEPARATOR)} - {""}


def split_examples(examples: Examples) -> tuple[Examples, Examples, Split]:
    """Split as an adaptation does; return the training part, the held-out part, and the split."""
    parts = split(examples.recordings)
    return examples.part(parts.trained), examples.part(parts.held_out), parts
