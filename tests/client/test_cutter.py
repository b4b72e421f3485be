"""Long recordings are cut at pauses, at any level and in noise, or else with an overlap."""

from __future__ import annotations

import numpy as np
import pytest
from earshot._cutter import OVERLAP_MS, Cutter, Piece
from hypothesis import given, settings
from hypothesis import strategies as st

RATE_HZ = 16000
FRAME = 1280
LONGEST = 30 * RATE_HZ
OVERLAP = OVERLAP_MS * RATE_HZ // 1000


def speech_like(seconds: float, pauses_s: list[tuple[float, float]], level: float, noise: float):
    """Return bursts like syllables, at 4 Hz, with pauses (start, length), over steady noise."""
    random = np.random.default_rng(0)
    time_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    envelope = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * time_s)
    for start_s, length_s in pauses_s:
        envelope[(time_s >= start_s) & (time_s < start_s + length_s)] = 0
    samples = level * envelope * random.standard_normal(time_s.size)
    return (samples + noise * random.standard_normal(time_s.size)).astype(np.float32)


def cut(samples: np.ndarray, block: int = 4000, longest: int = LONGEST) -> list[Piece]:
    cutter = Cutter(RATE_HZ, FRAME, longest)
    pieces: list[Piece] = []
    for start in range(0, samples.size, block):
        pieces += cutter.push(samples[start : start + block])
    return [*pieces, *cutter.end()]


def check(pieces: list[Piece], samples: np.ndarray, longest: int = LONGEST) -> None:
    """Every sample is in one piece, at its position, and only overlaps are in two."""
    covered_to = 0
    for piece in pieces:
        assert piece.start_sample % FRAME == 0
        assert piece.start_sample == covered_to - piece.overlap_samples
        assert 0 < piece.samples.size <= longest
        assert np.array_equal(piece.samples, samples[piece.start_sample : piece.end_sample])
        covered_to = piece.end_sample
    assert covered_to == samples.size


@pytest.mark.parametrize("seconds", [0.0, 0.01, 29.9, 30.0])
def test_what_is_short_enough_is_not_cut(seconds: float) -> None:
    samples = speech_like(seconds, [], 0.1, 0)
    pieces = cut(samples)
    assert len(pieces) == (1 if seconds else 0)
    check(pieces, samples)


@pytest.mark.parametrize(("level", "noise"), [(0.3, 0.0), (0.3, 0.01), (0.003, 0.0003)])
def test_the_longest_pause_of_the_later_half_is_taken(level: float, noise: float) -> None:
    samples = speech_like(50, [(5, 3), (17, 0.5), (22, 0.9), (28, 0.3)], level, noise)
    pieces = cut(samples)
    check(pieces, samples)
    assert len(pieces) == 2
    assert pieces[1].overlap_samples == 0
    assert 22.1 < pieces[1].start_sample / RATE_HZ < 22.8


@pytest.mark.parametrize("level", [0.3, 0.0])
def test_silence_is_cut_anywhere(level: float) -> None:
    """Also when it is absolute, and all there is."""
    samples = speech_like(100, [(0, 100)], level, 0)
    pieces = cut(samples)
    check(pieces, samples)
    assert all(piece.overlap_samples == 0 for piece in pieces)


@pytest.mark.parametrize("pauses", [[], [(20, 0.15)]], ids=["none", "too short"])
def test_without_a_pause_pieces_overlap(pauses: list[tuple[float, float]]) -> None:
    samples = speech_like(70, pauses, 0.3, 0.1)
    pieces = cut(samples)
    check(pieces, samples)
    assert [piece.overlap_samples for piece in pieces] == [0, OVERLAP, OVERLAP]
    assert pieces[0].samples.size == LONGEST


def test_speech_that_hardly_stands_out_is_not_taken_for_a_pause() -> None:
    samples = speech_like(40, [(20, 1)], 0.02, 0.1)
    pieces = cut(samples)
    check(pieces, samples)
    assert pieces[1].overlap_samples == OVERLAP


@settings(deadline=None, max_examples=50)
@given(
    length=st.integers(0, 30 * RATE_HZ),
    block=st.integers(1, 3 * RATE_HZ),
    longest_frames=st.integers(8, 60),
    seed=st.integers(0, 9),
)
def test_cuts_do_not_depend_on_blocks(
    length: int, block: int, longest_frames: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    pauses = [(float(start), float(random.uniform(0, 1))) for start in random.uniform(0, 30, 20)]
    samples = speech_like(length / RATE_HZ, pauses, 0.3, 0.001)
    longest = longest_frames * FRAME + 7
    pieces = cut(samples, max(block, 500), longest)
    check(pieces, samples, longest)
    whole = cut(samples, max(samples.size, 1), longest)
    assert [piece.start_sample for piece in pieces] == [piece.start_sample for piece in whole]
