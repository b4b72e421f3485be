"""Keep the times of a stream relative to its audio, without the silence inserted into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from ._transcript import Token

_Frame = TypeVar("_Frame", int, float)


class Timeline:
    """Maps the frames that a server counts to those of the audio.

    Every chunk is answered before the next one is sent, so only the latest silence can still lie
    before or behind a token.
    """

    def __init__(self) -> None:
        self._removed = 0
        self._frame = 0
        self._frames = 0

    def insert(self, frame: int, frames: int) -> None:
        """Note that `frames` frames of silence follow frame `frame` of the audio."""
        self._removed += self._frames
        self._frame, self._frames = frame, frames

    def map(self, tokens: Sequence[Token]) -> tuple[Token, ...]:
        """Return the tokens with frames of the audio; one in the silence gets the frame before."""
        if not self._frames:
            return tuple(tokens)
        return tuple(replace(token, frame=self.audio_frame(token.frame)) for token in tokens)

    def audio_frame(self, frame: _Frame) -> _Frame:
        """Convert a frame that the server counts, or a fraction of one, to that of the audio."""
        frame -= self._removed
        return max(frame - self._frames, min(frame, self._frame))
