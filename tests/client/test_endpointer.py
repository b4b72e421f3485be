"""Where speech ends, by the level of the audio."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from earshot._endpointer import WINDOW_MS, Endpointer, Speech
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.project import PROJECT

RATE_HZ = 16000
Samples = npt.NDArray[np.float32]


def room(seconds: float, level_db: float) -> Samples:
    """Return noise of this level."""
    noise = np.random.default_rng(0).standard_normal(round(seconds * RATE_HZ))
    return (noise * 10 ** (level_db / 20)).astype(np.float32)


def talk(seconds: float, level_db: float = -20.0) -> Samples:
    """Return a stand-in for speech: noise in four syllables a second, of up to this level."""
    noise = room(seconds, level_db)
    syllables = np.abs(np.sin(2 * np.pi * 2 * np.arange(noise.size) / RATE_HZ))
    return (noise * np.maximum(syllables, 0.03)).astype(np.float32)


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
    """Tell whether a sample is at this time, give or take two windows."""
    return abs(sample / RATE_HZ - seconds) <= 2 * WINDOW_MS / 1000


@pytest.mark.parametrize("endpoint_ms", [300, 500, 800])
def test_speech_has_ended_after_the_silence_asked_for(endpoint_ms: int) -> None:
    [(speech, known)] = ends([silence(1), talk(2), silence(2)], endpoint_ms)
    assert near(speech.start_sample, 1)
    assert near(speech.end_sample, 3)
    assert near(known, 3 + endpoint_ms / 1000)


def test_a_shorter_silence_ends_nothing() -> None:
    [(speech, _)] = ends([silence(1), talk(1), silence(0.45), talk(1), silence(1)])
    assert near(speech.start_sample, 1)
    assert near(speech.end_sample, 3.45)


@pytest.mark.parametrize("speech_db", [-10, -40])
@pytest.mark.parametrize("room_db", [-20, -30])
def test_any_gain_and_a_room_behind_it(speech_db: int, room_db: int) -> None:
    audio = np.concatenate([silence(0.5), talk(2, speech_db), silence(2), talk(1, speech_db)])
    noise = room(audio.size / RATE_HZ, speech_db + room_db)[::-1]
    [(speech, _)] = ends([audio + noise])
    assert near(speech.end_sample, 2.5)


def test_a_click_is_no_speech_and_prolongs_none() -> None:
    click = room(0.03, -20)
    assert ends([silence(1), click, silence(1)]) == []
    [(speech, known)] = ends([silence(1), talk(1), silence(0.3), click, silence(1)])
    assert near(speech.end_sample, 2)
    assert near(known, 2.5)


def test_a_constant_offset_is_silence() -> None:
    offset = np.float32(0.1)
    [(speech, _)] = ends([silence(1) + offset, talk(1, -30) + offset, silence(1) + offset])
    assert near(speech.start_sample, 1)
    assert near(speech.end_sample, 2)


def test_a_noise_that_begins_is_background_after_some_seconds() -> None:
    """Digital silence before it, as of a muted microphone, does not make it speech."""
    audio = np.concatenate([silence(9), talk(1), silence(2)])
    noise = np.concatenate([silence(1), room(11, -40)])
    [(speech, known)] = ends([audio + noise])
    assert near(speech.start_sample, 9)
    assert near(known, 10.5)
    audio = np.concatenate([silence(10), talk(1), silence(1)])
    louder = np.concatenate([room(1, -70), room(11, -40)])
    speeches = [speech for speech, _ in ends([audio + louder])]
    assert near(speeches[-1].start_sample, 10)
    assert near(speeches[-1].end_sample, 11)


def test_the_pauses_of_an_old_recording_are_found() -> None:
    samples, _ = soundfile.read(PROJECT / "recordings/jfk/jfk.flac", dtype="float32")
    pieces: list[Samples] = [np.asarray(samples, np.float32)]
    found = ends(pieces)
    assert [round(known / RATE_HZ, 1) for _, known in found] == [2.7, 4.8, 8.0]


def test_a_cut_ends_the_speech_at_hand() -> None:
    endpointer = Endpointer(RATE_HZ, 500)
    assert list(endpointer.push(np.concatenate([silence(1), talk(1)]))) == []
    speech = endpointer.cut()
    assert speech is not None
    assert near(speech.end_sample, 2)
    assert endpointer.cut() is None
    assert list(endpointer.push(silence(1))) == []


@given(borders=st.lists(st.integers(0, 4 * RATE_HZ), max_size=12))
@settings(deadline=None, max_examples=30)
def test_any_split_finds_the_same_ends(borders: list[int]) -> None:
    parts = [silence(0.5), talk(1), silence(0.8), talk(0.4), silence(0.7), talk(0.2), silence(0.6)]
    audio = np.concatenate(parts)
    cuts = itertools.pairwise([0, *sorted(borders), audio.size])
    assert ends([audio[start:end] for start, end in cuts]) == ends([audio])
