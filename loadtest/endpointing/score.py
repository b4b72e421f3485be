"""Compare the ends of utterances that a stream reported with the known ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.audio.recordings import SAMPLE_RATE_HZ
from loadtest.endpointing.conversations import WINDOW, Conversation

ALLOWED_MS = 300
"""An end is in time if it is reported within the requested silence plus this."""
ALLOWED_SPEECH_MS = 100
"""An event is not false if the reference has at most this much speech within the reported
silence."""


@dataclass(frozen=True)
class Score:
    """Counts of ends of utterances."""

    pauses: int
    """Pauses between recordings, which are the ends that must be found."""
    found: int
    """Pauses with an event in time."""
    late: int
    """Pauses with a later event, but before the speech continues."""
    wordless: int
    """Pauses without an event because the recognizer emitted no word since the previous pause."""
    events: int
    """All events; most of those outside of these pauses are at pauses inside a recording."""
    false: int
    """Events without the silence that they report, and all but the first event of a pause."""

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
        conversation: The conversation that was streamed.
        events: For each event, the number of samples sent when it was reported.
        words: The sample at which each word starts.
        endpoint_ms: The requested silence.
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
    """Return whether the reference has almost no speech in the silence that an event reports."""
    first = max(0, event - endpoint_ms * SAMPLE_RATE_HZ // 1000)
    spoken = conversation.speech[first // WINDOW : event // WINDOW].sum()
    return bool(spoken * 10 <= ALLOWED_SPEECH_MS)
