"""Where speech ends, by the level of the audio."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from earshot._endpointer import WINDOW_MS, Endpointer, Speech
from hypothesis import given, settings
from hypothesis import strategies as st

RATE_HZ = 16000
Samples = npt.NDArray[np.float32]


def tone(seconds: float, level_db: float = -20.0) -> Samples:
    """Return noise of this level: a stand-in for speech, or for a room."""
    noise = np.random.default_rng(0).standard_normal(round(seconds * RATE_HZ))
    return (noise * 10 ** (level_db / 20)).astype(np.float32)


def silence(seconds: float) -> Samples:
    """Return digital zeros."""
    return np.zeros(round(seconds * RATE_HZ), np.float32)


def ends(pieces: list[Samples], endpoint_ms: int = 500) -> list[tuple[Speech, int]]:
    """Return each speech that ended, and the samples heard until that was known."""
    endpointer = Endpointer(RATE_HZ, endpoint_ms)
    heard = 0
    found: list[tuple[Speech, int]] = []
    for piece in pieces:
        found += [(end.speech, heard + end.offset) for end in endpointer.push(piece)]
        heard += piece.size
    return found


def near(sample: int, seconds: float) -> bool:
    """Tell whether a sample is at this time, give or take one window."""
    return abs(sample / RATE_HZ - seconds) <= WINDOW_MS / 1000


@pytest.mark.parametrize("endpoint_ms", [300, 500, 800])
def test_speech_has_ended_after_the_silence_asked_for(endpoint_ms: int) -> None:
    [(speech, known)] = ends([silence(1), tone(2), silence(2)], endpoint_ms)
    assert near(speech.start_sample, 1)
    assert near(speech.end_sample, 3)
    assert near(known, 3 + endpoint_ms / 1000)


def test_a_shorter_silence_ends_nothing() -> None:
    [(speech, _)] = ends([silence(1), tone(1), silence(0.45), tone(1), silence(1)])
    assert near(speech.start_sample, 1)
    assert near(speech.end_sample, 3.45)


@pytest.mark.parametrize("speech_db", [-10, -40])
@pytest.mark.parametrize("room_db", [-20, -30])
def test_any_gain_and_a_room_behind_it(speech_db: int, room_db: int) -> None:
    audio = np.concatenate([silence(0.5), tone(2, speech_db), silence(2), tone(1, speech_db)])
    room = tone(audio.size / RATE_HZ, speech_db + room_db)[::-1]
    [(speech, _)] = ends([audio + room])
    assert near(speech.end_sample, 2.5)


def test_a_click_is_no_speech_and_prolongs_none() -> None:
    click = tone(0.03)
    assert ends([silence(1), click, silence(1)]) == []
    [(speech, known)] = ends([silence(1), tone(1), silence(0.3), click, silence(1)])
    assert near(speech.end_sample, 2)
    assert near(known, 2.5)


def test_a_constant_offset_is_silence() -> None:
    offset = np.float32(0.1)
    [(speech, _)] = ends([silence(1) + offset, tone(1, -30) + offset, silence(1) + offset])
    assert near(speech.start_sample, 1)
    assert near(speech.end_sample, 2)


def test_a_cut_ends_the_speech_at_hand() -> None:
    endpointer = Endpointer(RATE_HZ, 500)
    assert list(endpointer.push(np.concatenate([silence(1), tone(1)]))) == []
    speech = endpointer.cut()
    assert speech is not None
    assert near(speech.end_sample, 2)
    assert endpointer.cut() is None
    assert list(endpointer.push(silence(1))) == []


@given(borders=st.lists(st.integers(0, 4 * RATE_HZ), max_size=12))
@settings(deadline=None, max_examples=30)
def test_any_split_finds_the_same_ends(borders: list[int]) -> None:
    parts = [silence(0.5), tone(1), silence(0.8), tone(0.4), silence(0.7), tone(0.2), silence(0.6)]
    audio = np.concatenate(parts)
    cuts = itertools.pairwise([0, *sorted(borders), audio.size])
    assert ends([audio[start:end] for start, end in cuts]) == ends([audio])
