"""Audio for a fake recognizer: number n is a plateau whose height encodes n."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.support.fake_triton import ReceivedPiece, Tokens

RATE_HZ = 16000
FRAME = 1280
WORD_FRAMES = 3
NUMBERS = 500
_BASE, _STEP = 0.2, 0.001

CUT = "cut"
SILENT = -1
Script = list[int]
"""The number in each frame, or SILENT."""


def script(seconds: float, pause_every: int | None) -> Script:
    """Return numbers that count up, one per 4 frames; every `pause_every`-th precedes a pause."""
    frames: Script = []
    word = 0
    while len(frames) < seconds * RATE_HZ / FRAME:
        frames += [word % NUMBERS] * WORD_FRAMES
        frames += [SILENT] * (8 if pause_every and word % pause_every == pause_every - 1 else 1)
        word += 1
    return frames


def audio(frames: Script) -> np.ndarray:
    """Return the samples [n] of a script."""
    heights = np.array([0.0 if word == SILENT else _BASE + _STEP * word for word in frames])
    return np.repeat(heights, FRAME).astype(np.float32)


def blocks(frames: Script, block: int = 1000) -> Iterator[np.ndarray]:
    for start in range(0, len(frames), block):
        yield audio(frames[start : start + block])


def words(frames: Script) -> list[tuple[str, int]]:
    """Return each number, and the frame at which it begins."""
    return [
        (str(word), index)
        for index, word in enumerate(frames)
        if word != SILENT and (index == 0 or frames[index - 1] != word)
    ]


def recognize_numbers(piece: ReceivedPiece) -> Tokens:
    """Return the numbers of a piece; one that began before the piece is recognized as CUT."""
    heights = piece.samples[FRAME // 2 :: FRAME]
    frames = [SILENT if h < _BASE / 2 else round((h - _BASE) / _STEP) for h in heights]
    tokens: Tokens = []
    for text, frame in words(frames):
        cut = frame == 0 and frames[:WORD_FRAMES].count(int(text)) < WORD_FRAMES
        number = NUMBERS if cut else int(text)
        tokens.append((number, (" " if tokens else "") + (CUT if cut else text), frame))
    return tokens
