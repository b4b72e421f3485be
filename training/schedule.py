"""Schedule training by hours of audio, so that interruptions have no effect."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Objective = Literal["ctc", "transducer"]
"""CTC alone, or the transducer with CTC as auxiliary loss."""


@dataclass(frozen=True)
class Phase:
    """A part of training, in which the learning rate changes to `learning_rate`.

    An update takes one batch of `batch_seconds`, padding included, per replica.
    """

    name: str
    audio_hours: float
    learning_rate: float
    real_share: float
    max_seconds: float
    objective: Objective
    batch_seconds: float = 32.0
    augmented_share: float = 0.4
    dropout: float = 0.0
    """Dropout on the residual branches of the encoder."""
    lookahead_weights: Mapping[int, int] = field(
        default_factory=lambda: {13: 2, 6: 4, 3: 2, 1: 1, 0: 1}
    )


_EASY: Any = {
    "objective": "ctc",
    "real_share": 0.0,
    "batch_seconds": 12.0,
    "augmented_share": 0.0,
    "lookahead_weights": {13: 1, 6: 1},
}
"""The first alignments are learnt sooner from clean synthetic speech and with lookahead."""

PHASES = (
    Phase("warm-up", 0.3, 7e-4, max_seconds=1.3, **_EASY),
    Phase("words", 1.0, 7e-4, max_seconds=1.5, **_EASY),
    Phase("align", 1.8, 7e-4, max_seconds=4.0, **_EASY),
    Phase(
        "listen", 9.0, 1e-3, real_share=0.5, max_seconds=7.0, objective="ctc", augmented_share=0.0
    ),
    Phase("listen on", 6.0, 5e-4, real_share=0.55, max_seconds=15.5, objective="ctc"),
    Phase("transduce", 14.0, 5e-4, real_share=0.6, max_seconds=15.5, objective="transducer"),
    Phase("real", 10.0, 2e-5, real_share=0.85, max_seconds=15.5, objective="transducer"),
)
CTC_WEIGHT = 0.3
"""Share of CTC in the loss of the transducer phases."""


@dataclass(frozen=True)
class Moment:
    """Current phase and learning rate."""

    phase: Phase
    learning_rate: float


def moment(audio_hours: float, phases: tuple[Phase, ...] = PHASES) -> Moment | None:
    """Return the moment after `audio_hours`; None if training is over."""
    rate_before, begin = 0.0, 0.0
    for phase in phases:
        if audio_hours < begin + phase.audio_hours:
            share = (audio_hours - begin) / phase.audio_hours
            if phase.learning_rate < rate_before:
                share = (1 - math.cos(math.pi * share)) / 2
            rate = rate_before + (phase.learning_rate - rate_before) * share
            return Moment(phase, max(rate, 1e-6))
        rate_before, begin = phase.learning_rate, begin + phase.audio_hours
    return None


def total_hours(phases: tuple[Phase, ...]) -> float:
    """Return the hours of audio of all phases."""
    return sum(phase.audio_hours for phase in phases)


def again(audio_hours: float) -> tuple[Phase, ...]:
    """Return a cycle after the schedule, in which the learning rate rises and falls again.

    By then every real recording has been used several times: augmentation and dropout keep the
    model from memorizing them, and synthetic speech adds words that no recording has.
    """
    if audio_hours <= 0:
        return ()
    mixture: Any = {"max_seconds": 15.5, "objective": "transducer"}
    mixture |= {"augmented_share": 0.9, "dropout": 0.1}
    return (
        Phase("again, rising", 0.05 * audio_hours, 5e-4, real_share=0.5, **mixture),
        Phase("again, on", 0.65 * audio_hours, 2.5e-4, real_share=0.5, **mixture),
        Phase("again, real", 0.3 * audio_hours, 1e-5, real_share=0.75, **mixture),
    )
