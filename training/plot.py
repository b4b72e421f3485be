"""Plot a training run (losses and held-out word error rates), or the gain of each step."""

import json
from pathlib import Path
from typing import Any

MOST_PERCENT = 110
"""Upper end of the axis, because an untrained transducer has word error rates far above 100 %."""


def plot_log(log: Path, picture: Path) -> None:
    """Plot `log` (JSON lines of a run) as `picture`, whose suffix determines the format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines: list[dict[str, Any]] = [json.loads(line) for line in log.read_text().splitlines()]
    figure, (losses, rates) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 7))
    for name, label in (("ctc_loss", "CTC"), ("transducer_loss", "transducer")):
        points = [(line["audio_hours"], line[name]) for line in lines if line.get(name)]
        if points:
            losses.plot(*zip(*points, strict=True), label=label)
    for corpus in sorted({line["look"] for line in lines if "look" in line}):
        looks = [line for line in lines if line.get("look") == corpus]
        hours = [look["audio_hours"] for look in looks]
        (curve,) = rates.plot(hours, [100 * look["wer"] for look in looks], label=corpus)
        ctc = [100 * look["ctc_wer"] for look in looks]
        rates.plot(hours, ctc, ":", color=curve.get_color(), label=f"{corpus}, CTC")
    losses.set_ylabel("loss per token (nats)")
    rates.set_ylabel("word error rate (%)")
    rates.set_ylim(0, MOST_PERCENT)
    rates.set_xlabel("audio trained on (hours)")
    for axes in (losses, rates):
        axes.grid(alpha=0.3)
    losses.legend()
    rates.legend(fontsize=7, ncol=2, loc="lower left")
    figure.tight_layout()
    figure.savefig(picture)


def plot_history(history: Path, picture: Path) -> None:
    """Plot the word error rates of `history.json` on the test sets over hours of audio.

    PocketSphinx's rates on the same sets are dashed lines.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import ScalarFormatter

    document: dict[str, Any] = json.loads(history.read_text())
    steps: list[dict[str, Any]] = document["steps"]
    hours = [step["audio_hours"] for step in steps]
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for test_set, pocketsphinx in document["pocketsphinx"].items():
        rates = [step["wer"][test_set] for step in steps]
        (curve,) = axes.plot(hours, rates, "o-", label=test_set)
        label = f"PocketSphinx, {test_set}"
        axes.axhline(pocketsphinx, ls="--", lw=1, color=curve.get_color(), label=label)
    axes.set_xscale("log")
    axes.set_xticks(hours)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    axes.set_xlabel("audio trained on (hours)")
    axes.set_ylabel("word error rate (%)")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(picture)
