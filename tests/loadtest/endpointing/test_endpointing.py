"""Conversations with known pauses, the count of ends, and the endpointer on real speech."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from earshot._endpointer import Endpointer

from loadtest.audio.recordings import SAMPLE_RATE_HZ, find_recordings
from loadtest.endpointing.conversations import (
    PAUSES_MS,
    WINDOW,
    Conversation,
    speech_mask,
    write_conversations,
)
from loadtest.endpointing.score import NOTHING, Score, score
from tests.support.project import PROJECT


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    recordings = find_recordings(PROJECT / "recordings")
    return write_conversations([*recordings, *recordings], seed=1)


def test_pauses_are_known_and_silent(conversations: list[Conversation]) -> None:
    quiet, noisy = conversations
    assert (quiet.noisy, noisy.noisy) == (False, True)
    for start, end in quiet.pauses:
        assert (end - start) * 1000 // SAMPLE_RATE_HZ in PAUSES_MS
        assert not quiet.samples[start:end].any()
        assert not quiet.speech[start // WINDOW : end // WINDOW].any()
        assert quiet.speech[start // WINDOW - 1], "trimmed to the speech"
    assert len(quiet.pauses) == 10
    assert quiet.samples.size == quiet.pauses[-1][1] == quiet.speech.size * WINDOW
    first, end = noisy.pauses[0]
    assert np.sqrt(np.mean(noisy.samples[first:end] ** 2)) > 1e-4


def test_the_reference_leaves_out_clicks() -> None:
    samples = np.zeros(SAMPLE_RATE_HZ, np.float32)
    samples[4000:12000] = 0.1
    samples[14000:14400] = 0.1
    assert np.flatnonzero(speech_mask(samples)).tolist() == list(range(25, 75))


@pytest.mark.parametrize(
    ("events_ms", "expected"),
    [
        ([], Score(pauses=1, found=0, late=0, wordless=0, events=0, false=0)),
        ([2500], Score(pauses=1, found=1, late=0, wordless=0, events=1, false=0)),
        ([2800], Score(pauses=1, found=1, late=0, wordless=0, events=1, false=0)),
        ([2820], Score(pauses=1, found=0, late=1, wordless=0, events=1, false=0)),
        ([2500, 2900], Score(pauses=1, found=1, late=0, wordless=0, events=2, false=1)),
        ([1500], Score(pauses=1, found=0, late=0, wordless=0, events=1, false=1)),
        ([5500], Score(pauses=1, found=0, late=0, wordless=0, events=1, false=0)),
    ],
)
def test_ends_are_counted(events_ms: list[int], expected: Score) -> None:
    """Speech until 2 s, a pause until 4 s, speech until 5 s, and the speaker's own pause."""
    speech = np.repeat([True, False, True, False], [200, 200, 100, 100])
    rate_per_ms = SAMPLE_RATE_HZ // 1000
    samples = np.zeros(speech.size * WINDOW, np.float32)
    pause = (2000 * rate_per_ms, 4000 * rate_per_ms)
    conversation = Conversation(samples, (pause,), speech, "", noisy=False)
    events = [event_ms * rate_per_ms for event_ms in events_ms]
    assert score(conversation, events, words=[0], endpoint_ms=500) == expected
    if not events:
        wordless = replace(expected, wordless=1)
        assert score(conversation, [], words=[4100 * rate_per_ms], endpoint_ms=500) == wordless


@pytest.mark.parametrize("gain", [0.1, 1.0])
@pytest.mark.parametrize("endpoint_ms", [300, 500, 800])
def test_the_ends_of_real_speech_are_found(
    conversations: list[Conversation], endpoint_ms: int, gain: float
) -> None:
    counted = NOTHING
    for conversation in conversations:
        louder = replace(conversation, samples=conversation.samples * np.float32(gain))
        ends = Endpointer(SAMPLE_RATE_HZ, endpoint_ms).push(louder.samples)
        counted += score(louder, [end.offset for end in ends], [], endpoint_ms)
    assert counted.found >= 0.95 * counted.pauses
    assert counted.false <= 1, "of about thirty; the record has the share of many"
