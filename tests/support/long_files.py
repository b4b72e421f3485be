"""Check the transcript of a long file: the tokens of its pieces, each once, at its time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import earshot
import numpy as np
from earshot._cutter import WINDOW_MS, Cutter, Piece

from export.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ
from export.checkpoint import Checkpoint
from export.offline.reference import transcribe

LONGEST = 30 * SAMPLE_RATE_HZ
MOMENT = SAMPLE_RATE_HZ * WINDOW_MS // 1000
NEAR_FRAMES = 5
"""Most frames between the places that two pieces give to one token."""

TimedToken = tuple[int, int]
"""A token, and the frame of the file at which it was recognized."""


def with_pauses(speech: Iterable[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """Join recordings with pauses as long as those between sentences."""
    parts: list[np.ndarray] = []
    for samples in speech:
        parts += [samples, np.zeros(int(random.uniform(0.3, 1.2) * SAMPLE_RATE_HZ), np.float32)]
    return np.concatenate(parts)


def without_pauses(speech: Iterable[np.ndarray]) -> np.ndarray:
    """Join recordings and make every moment equally loud, as a broadcaster's compressor does.

    The words remain, and no moment can be taken for a pause.
    """
    samples = np.concatenate(list(speech))
    moments = samples[: samples.size // MOMENT * MOMENT].reshape(-1, MOMENT)
    loudness = np.sqrt(np.mean(np.square(moments), axis=1, keepdims=True))
    return (0.05 * moments / (loudness + 1e-4)).reshape(-1).astype(np.float32)


def pieces_of(samples: np.ndarray) -> list[Piece]:
    """Cut samples into pieces as the client does."""
    cutter = Cutter(SAMPLE_RATE_HZ, FRAME_SAMPLES, LONGEST)
    return [*cutter.push(samples), *cutter.end()]


def reference_tokens(checkpoint: Checkpoint, pieces: Sequence[Piece]) -> list[list[TimedToken]]:
    """Return the tokens of transformers for each piece, in frames of the file."""
    return [
        [
            (token, piece.start_sample // FRAME_SAMPLES + frame)
            for token, frame in zip(reference.tokens, reference.token_frames, strict=True)
        ]
        for piece, reference in zip(
            pieces, transcribe(checkpoint, [piece.samples for piece in pieces]), strict=True
        )
    ]


def assert_joined(
    transcript: earshot.Transcript, pieces: Sequence[Piece], recognized: Sequence[list[TimedToken]]
) -> None:
    """Check that every token of every piece is there in order, and those of two pieces once."""
    got = [(token.id, token.frame) for token in transcript.tokens]
    frames = [frame for _, frame in got]
    assert frames == sorted(frames)
    starts = [word.start_ms for word in transcript.words]
    assert starts == sorted(starts)
    spans = [*map(_overlap, pieces), (pieces[-1].end_sample // FRAME_SAMPLES + 1, 0)]
    for index, own in enumerate(recognized):
        first, shared_until = spans[index]
        alone = shared_until, spans[index + 1][0]
        assert _within(got, alone) == _within(own, alone)
        if shared_until > first:
            before = _within(recognized[index - 1], spans[index])
            _assert_changed_over(_within(got, spans[index]), before, _within(own, spans[index]))


def count_shared_tokens(pieces: Sequence[Piece], recognized: Sequence[list[TimedToken]]) -> int:
    """Return the number of tokens in overlaps, of both pieces."""
    return sum(
        len(_within([*before, *own], _overlap(piece)))
        for piece, before, own in zip(pieces[1:], recognized, recognized[1:], strict=False)
    )


def _overlap(piece: Piece) -> tuple[int, int]:
    """Return the frames that the piece has in common with the one before."""
    first = piece.start_sample // FRAME_SAMPLES
    return first, first + piece.overlap_samples // FRAME_SAMPLES


def _within(recognized: Sequence[TimedToken], span: tuple[int, int]) -> list[TimedToken]:
    return [(token, frame) for token, frame in recognized if span[0] <= frame < span[1]]


def _assert_changed_over(
    got: list[TimedToken], before: list[TimedToken], after: list[TimedToken]
) -> None:
    """Check for the first tokens of one piece and the rest of those of the next one."""
    assert any(
        _tokens(got) == _tokens(before[:kept] + after[skipped:])
        and not _twice(before[:kept], after[skipped:])
        and _at_one_moment(before[:kept] + after[:skipped], before[kept:] + after[skipped:])
        for kept in range(len(before) + 1)
        for skipped in range(len(after) + 1)
    ), (got, before, after)


def _tokens(recognized: Sequence[TimedToken]) -> list[int]:
    return [token for token, _ in recognized]


def _twice(kept: list[TimedToken], taken: list[TimedToken]) -> bool:
    """Return True if one token was taken from both pieces."""
    if not kept or not taken:
        return False
    (token, frame), (other, at) = kept[-1], taken[0]
    return token == other and abs(frame - at) <= NEAR_FRAMES


def _at_one_moment(earlier: list[TimedToken], later: list[TimedToken]) -> bool:
    """Return True if one moment separates the tokens of the two pieces."""
    last = max((frame for _, frame in earlier), default=0)
    return all(frame >= last - NEAR_FRAMES for _, frame in later)
