"""Times after inserted silence are those of the audio."""

from __future__ import annotations

from earshot import Token
from earshot._timeline import Timeline


def frames_of(timeline: Timeline, *frames: int) -> list[int]:
    """Return the frames of the audio for frames of the stream."""
    return [token.frame for token in timeline.map([Token(0, "", frame, 0.0) for frame in frames])]


def test_without_silence_nothing_changes() -> None:
    assert frames_of(Timeline(), 0, 7, 7) == [0, 7, 7]


def test_a_silence_takes_no_time() -> None:
    timeline = Timeline()
    timeline.insert(frame=5, frames=3)
    assert frames_of(timeline, 4, 5) == [4, 5]
    assert frames_of(timeline, 6, 7, 8) == [5, 5, 5], (
        "a token in the silence is of the frame before"
    )
    assert frames_of(timeline, 9, 20) == [6, 17]


def test_frames_are_exact_after_years() -> None:
    timeline = Timeline()
    timeline.insert(frame=2**31 + 1, frames=3)
    timeline.insert(frame=2**53 + 1, frames=4)
    assert frames_of(timeline, 2**53 + 4, 2**53 + 9) == [2**53 + 1, 2**53 + 2]


def test_silences_add_up() -> None:
    timeline = Timeline()
    timeline.insert(frame=5, frames=3)
    timeline.insert(frame=10, frames=4)
    assert frames_of(timeline, 13, 15, 17, 18) == [10, 10, 10, 11]
