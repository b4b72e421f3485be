"""The client finds 95 % of the ends of utterances in real speech, and 2 % falsely, at worst."""

from __future__ import annotations

import pytest
from earshot._endpointer import Endpointer

from loadtest.audio.recordings import SAMPLE_RATE_HZ, find_recordings
from loadtest.endpointing.conversations import Conversation, write_conversations
from loadtest.endpointing.score import NOTHING, score
from loadtest.options import RECORDINGS

PIECE = SAMPLE_RATE_HZ // 50
SEEDS = range(3)
"""Each is another order of the recordings, with other pauses and other noise."""


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    """Half of them with noise."""
    recordings = find_recordings(RECORDINGS)
    return [one for seed in SEEDS for one in write_conversations(recordings * 2, seed)]


@pytest.mark.parametrize("endpoint_ms", [300, 500, 800])
def test_ends_of_speech_are_found_by_its_level(
    conversations: list[Conversation], endpoint_ms: int
) -> None:
    scores = [
        # As if each recording were recognized: whether words came does not matter here.
        score(one, ends(one, endpoint_ms), [start - 1 for start, _ in one.pauses], endpoint_ms)
        for one in conversations
    ]
    total = sum(scores, NOTHING)
    assert total.pauses == len(SEEDS) * 20
    assert total.found >= 0.95 * total.pauses
    assert total.false <= 0.02 * total.events


def ends(conversation: Conversation, endpoint_ms: int) -> list[int]:
    """Return the samples that had come when each end was known."""
    endpointer = Endpointer(SAMPLE_RATE_HZ, endpoint_ms)
    pieces = range(0, conversation.samples.size, PIECE)
    return [
        min(start + PIECE, conversation.samples.size)
        for start in pieces
        for _ in endpointer.push(conversation.samples[start : start + PIECE])
    ]
