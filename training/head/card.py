"""Describe heads: a card for people, and its figures for programs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.head.score import HeadScore
from training.head.settings import Settings

RECORD, PICTURE = "figures.json", "confusion.svg"


@dataclass(frozen=True)
class Outcome:
    """Heads and their measured scores."""

    settings: Settings
    base_sha256: str
    trained: int
    """Number of recordings that were trained on."""
    held_out: list[HeadScore]
    by_speaker: bool
    """True if the parts have no speaker in common; else, with few named speakers, no sentence."""
    tests: dict[str, list[HeadScore]]
    """Scores of each test folder, by its name."""


def write_card(outcome: Outcome, folder: Path) -> None:
    """Write `README.md` and `figures.json`."""
    (folder / "README.md").write_text(_card(outcome), encoding="utf-8")
    figures = {
        "held out": _figures(outcome.held_out),
        **{name: _figures(scores) for name, scores in outcome.tests.items()},
    }
    (folder / RECORD).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _figures(scores: Sequence[HeadScore]) -> dict[str, dict[str, float]]:
    return {
        score.question.name: {
            "recordings": score.recordings,
            "accuracy": round(score.accuracy, 4),
            "majority": round(score.majority_accuracy, 4),
        }
        for score in scores
    }


def _card(outcome: Outcome) -> str:
    settings = outcome.settings
    apart = "speaker" if outcome.by_speaker else "sentence"
    tables = "".join(
        f"\n{name}, {scores[0].recordings} recordings:\n\n{_table(scores)}"
        for name, scores in {"Held out": outcome.held_out, **outcome.tests}.items()
    )
    return f"""# {settings.output.name}

Heads on the encoder's frames of `{settings.checkpoint}`, which stays as it is.

```
{_command(settings)}
python -m export.heads {settings.output} --checkpoint {settings.checkpoint} --name \
{settings.output.name}
```

| | |
|---|---|
| base | `{settings.checkpoint}`, sha256 of its weights `{outcome.base_sha256[:12]}` |
| trained on | {outcome.trained} recordings of `{settings.data.name}`; \
no {apart} of them is held out |
| variants | {settings.variants} of each, as from other microphones |
| network | {settings.queries} queries for each head, lookahead {settings.lookahead} |

The share of recordings that get the right label, beside that of the most frequent label for all:
{tables}
![Confusion on the held-out recordings]({PICTURE})

The held-out recordings decided whether these heads are published. They are bound by the licences
of the base and of the recordings.
"""


def _table(scores: Sequence[HeadScore]) -> str:
    rows = "".join(
        f"| `{score.question.name}` | {len(score.question.labels)} | "
        f"{score.majority_accuracy:.1%} | {score.accuracy:.1%} |\n"
        for score in scores
    )
    return "| head | labels | most frequent | head |\n|---|---|---|---|\n" + rows


def _command(settings: Settings) -> str:
    options = [
        f"--data {settings.data}",
        *(f"--label {label}" for label in settings.labels),
        *(f"--test {folder}" for folder in settings.tests),
        f"--lookahead {settings.lookahead} --queries {settings.queries} --passes {settings.passes} "
        f"--variants {settings.variants}",
        f"--output {settings.output}",
    ]
    return " \\\n  ".join([f"python -m training head {settings.checkpoint}", *options])
