"""Plot the confusion matrices of heads."""

from collections.abc import Sequence
from pathlib import Path

from training.head.score import HeadScore

INCHES_PER_LABEL = 0.32
NONE = "(none)"
"""Shown instead of an empty label."""


def draw_confusion(scores: Sequence[HeadScore], picture: Path) -> None:
    """Plot one matrix per head, with right labels as rows, in the format of `picture`'s suffix."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text instead of outlines: a tenth of the size
    from matplotlib import pyplot

    sizes = [1.5 + INCHES_PER_LABEL * len(score.question.labels) for score in scores]
    figure, rows = pyplot.subplots(
        len(scores),
        1,
        figsize=(max(sizes) + 2, sum(sizes) + len(scores)),
        height_ratios=sizes,
        squeeze=False,
        layout="constrained",
    )
    for axes, score in zip(rows[:, 0], scores, strict=True):
        names = [name or NONE for name in score.question.labels]
        axes.imshow(score.counts, cmap="Blues")
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        for right, counts in enumerate(score.counts):
            for given, count in enumerate(counts):
                if count:
                    axes.text(given, right, str(count), ha="center", va="center", fontsize=7)
        axes.set_title(f"{score.question.name}: {score.accuracy:.0%} of {score.recordings}")
        axes.set_ylabel("right")
        axes.set_xlabel("given")
    figure.savefig(picture)
    pyplot.close(figure)
