"""Describe an adapted checkpoint: a model card for people, and its figures for programs."""

import json
from dataclasses import dataclass
from pathlib import Path

from training.adapt.merge import RECORD
from training.adapt.recordings import Split
from training.adapt.settings import ADAPTER, Settings, sha256_of
from training.evaluate import Score
from training.train import Progress

Comparison = tuple[Score, Score]
"""Scores of one set, by the base and by the adapted checkpoint."""


@dataclass(frozen=True)
class Outcome:
    """A measured adaptation; its first comparison is that of the held-out recordings."""

    settings: Settings
    parts: Split
    trained_hours: float
    progress: Progress
    compared: list[Comparison]


def write_card(outcome: Outcome, folder: Path) -> None:
    """Write `README.md` and `adaptation.json`, and a copy of the latter beside the adapter."""
    (folder / "README.md").write_text(_card(outcome))
    figures = json.dumps(_figures(outcome), indent=2) + "\n"
    (folder / RECORD).write_text(figures)
    if not outcome.settings.full:
        (folder / ADAPTER / RECORD).write_text(figures)


def _figures(outcome: Outcome) -> dict[str, object]:
    settings = outcome.settings
    return {
        "base": str(settings.checkpoint),
        "base_sha256": sha256_of(settings.checkpoint / "model.safetensors"),
        "rank": None if settings.full else settings.rank,
        "learning_rate": settings.peak_rate,
        "updates": outcome.progress.steps,
        "audio_hours": round(outcome.progress.audio_hours, 2),
        "word_error_rates": {
            before.name: {"words": before.words, "base": before.wer, "adapted": after.wer}
            for before, after in outcome.compared
        },
    }


def _card(outcome: Outcome) -> str:
    settings, parts = outcome.settings, outcome.parts
    way = "all weights trained" if settings.full else f"low-rank adapter, rank {settings.rank}"
    apart = "no speaker" if parts.by_speaker else "no sentence"
    rows = "".join(
        f"| `{before.name}` | {before.words} | {before.wer:.1%} | {after.wer:.1%} |\n"
        for before, after in outcome.compared
    )
    return f"""# {settings.output.name}

`{settings.checkpoint}`, adapted to the recordings in `{settings.data.name}`: {way}.

```
{_command(settings)}
python -m export {settings.output} --name {settings.output.name}_v1
```

| | |
|---|---|
| base | `{settings.checkpoint}`, sha256 of its weights `{_short_hash(settings)}` |
| trained on | {len(parts.trained)} recordings, {outcome.trained_hours:.2f} hours, at three speeds |
| held out | {len(parts.held_out)} recordings; {apart} is in both parts |
| training | {outcome.progress.steps} updates, {outcome.progress.audio_hours:.1f} hours heard, \
learning rate up to {settings.peak_rate:g} |

Word error rate (lower case, no punctuation; one greedy offline pass with the default lookahead):

| set | words | base | adapted |
|---|---|---|---|
{rows}
The held-out recordings decided whether this checkpoint is published. It is bound by the licences of
its base and of the recordings.
"""


def _command(settings: Settings) -> str:
    options = [
        f"--data {settings.data}",
        f"--output {settings.output}",
        *(f"--test {folder}" for folder in settings.tests),
        "--full" if settings.full else f"--rank {settings.rank}",
        f"--passes {settings.passes:g}",
        f"--learning-rate {settings.peak_rate:g}",
    ]
    return " \\\n  ".join([f"python -m training adapt {settings.checkpoint}", *options])


def _short_hash(settings: Settings) -> str:
    return sha256_of(settings.checkpoint / "model.safetensors")[:12]
