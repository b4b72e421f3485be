"""Compare the ends of utterances that a stream reported with those that are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.audio.recordings import SAMPLE_RATE_HZ
from loadtest.endpointing.conversations import WINDOW, Conversation

ALLOWED_MS = 300
"""An end is found in time within the silence asked for and this."""
ALLOWED_SPEECH_MS = 100
"""Speech of the reference, within the silence that an event claims, that does not make it false."""


@dataclass(frozen=True)
class Score:
    """Ends of utterances, counted."""

    pauses: int
    """Pauses between recordings: ends that must be found."""
    found: int
    """Those with an event in time."""
    late: int
    """Those with an event later than that, but before the speech goes on."""
    wordless: int
    """Those without an event because the recognizer wrote no word since the pause before."""
    events: int
    """All events; most of those not at a pause are at one inside a recording."""
    false: int
    """Events without the silence that they claim, and all but the first of a pause."""

    def __add__(self, other: Score) -> Score:
        return Score(
            self.pauses + other.pauses,
            self.found + other.found,
            self.late + other.late,
            self.wordless + other.wordless,
            self.events + other.events,
            self.false + other.false,
        )


NOTHING = Score(0, 0, 0, 0, 0, 0)


def score(
    conversation: Conversation, events: Sequence[int], words: Sequence[int], endpoint_ms: int
) -> Score:
    """Count the ends that a stream reported.

    Args:
        conversation: What was streamed.
        events: For each event, the samples that had been sent when it was reported.
        words: The sample at which each word starts.
        endpoint_ms: The silence asked for.
    """
    allowed = (endpoint_ms + ALLOWED_MS) * SAMPLE_RATE_HZ // 1000
    found = late = wordless = false = before = 0
    inside = list(events)
    for start, end in conversation.pauses:
        mine = [event for event in inside if start < event <= end]
        inside = [event for event in inside if event not in mine]
        if mine:
            found += mine[0] - start <= allowed
            late += mine[0] - start > allowed
            false += len(mine) - 1
        else:
            wordless += not any(before <= word < end for word in words)
        before = end
    false += sum(not _is_silent(conversation, event, endpoint_ms) for event in inside)
    return Score(len(conversation.pauses), found, late, wordless, len(events), false)


def _is_silent(conversation: Conversation, event: int, endpoint_ms: int) -> bool:
    """Tell whether the reference has as good as no speech in the silence that an event claims."""
    first = max(0, event - endpoint_ms * SAMPLE_RATE_HZ // 1000)
    spoken = conversation.speech[first // WINDOW : event // WINDOW].sum()
    return bool(spoken * 10 <= ALLOWED_SPEECH_MS)
