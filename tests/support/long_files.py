"""What a long file must have become: the tokens of its pieces, each once, at its time."""

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
"""Two pieces may place one token so far apart."""

Heard = tuple[int, int]
"""Token and the frame of the file that it was heard at."""


def with_pauses(speech: Iterable[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """Recordings, with the breaths that a speaker takes between sentences."""
    parts: list[np.ndarray] = []
    for samples in speech:
        parts += [samples, np.zeros(int(random.uniform(0.3, 1.2) * SAMPLE_RATE_HZ), np.float32)]
    return np.concatenate(parts)


def without_pauses(speech: Iterable[np.ndarray]) -> np.ndarray:
    """Recordings of which every moment is as loud as the next, as a broadcaster's compressor does.

    Words stay what they are, and no moment can be told for a pause.
    """
    samples = np.concatenate(list(speech))
    moments = samples[: samples.size // MOMENT * MOMENT].reshape(-1, MOMENT)
    loudness = np.sqrt(np.mean(np.square(moments), axis=1, keepdims=True))
    return (0.05 * moments / (loudness + 1e-4)).reshape(-1).astype(np.float32)


def pieces_of(samples: np.ndarray) -> list[Piece]:
    """As the client cuts them."""
    cutter = Cutter(SAMPLE_RATE_HZ, FRAME_SAMPLES, LONGEST)
    return [*cutter.push(samples), *cutter.end()]


def heard_in(checkpoint: Checkpoint, pieces: Sequence[Piece]) -> list[list[Heard]]:
    """What transformers hears in each piece, in frames of the file."""
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
    transcript: earshot.Transcript, pieces: Sequence[Piece], heard: Sequence[list[Heard]]
) -> None:
    """Every token of every piece, but what two pieces both heard: that once, and in order."""
    got = [(token.id, token.frame) for token in transcript.tokens]
    frames = [frame for _, frame in got]
    assert frames == sorted(frames)
    starts = [word.start_ms for word in transcript.words]
    assert starts == sorted(starts)
    spans = [*map(_overlap, pieces), (pieces[-1].end_sample // FRAME_SAMPLES + 1, 0)]
    for index, own in enumerate(heard):
        first, shared_until = spans[index]
        alone = shared_until, spans[index + 1][0]
        assert _within(got, alone) == _within(own, alone)
        if shared_until > first:
            before = _within(heard[index - 1], spans[index])
            _assert_changed_over(_within(got, spans[index]), before, _within(own, spans[index]))


def heard_twice(pieces: Sequence[Piece], heard: Sequence[list[Heard]]) -> int:
    """Tokens in overlaps, of both pieces."""
    return sum(
        len(_within([*before, *own], _overlap(piece)))
        for piece, before, own in zip(pieces[1:], heard, heard[1:], strict=False)
    )


def _overlap(piece: Piece) -> tuple[int, int]:
    """The frames that the piece before has heard too."""
    first = piece.start_sample // FRAME_SAMPLES
    return first, first + piece.overlap_samples // FRAME_SAMPLES


def _within(heard: Sequence[Heard], span: tuple[int, int]) -> list[Heard]:
    return [(token, frame) for token, frame in heard if span[0] <= frame < span[1]]


def _assert_changed_over(got: list[Heard], before: list[Heard], after: list[Heard]) -> None:
    """The beginning of what one piece heard, and the rest of what the next one did."""
    assert any(
        _tokens(got) == _tokens(before[:kept] + after[skipped:])
        and not _twice(before[:kept], after[skipped:])
        and _at_one_moment(before[:kept] + after[:skipped], before[kept:] + after[skipped:])
        for kept in range(len(before) + 1)
        for skipped in range(len(after) + 1)
    ), (got, before, after)


def _tokens(heard: Sequence[Heard]) -> list[int]:
    return [token for token, _ in heard]


def _twice(kept: list[Heard], taken: list[Heard]) -> bool:
    """Whether one token is there from both pieces."""
    if not kept or not taken:
        return False
    (token, frame), (other, at) = kept[-1], taken[0]
    return token == other and abs(frame - at) <= NEAR_FRAMES


def _at_one_moment(earlier: list[Heard], later: list[Heard]) -> bool:
    """Whether a moment parts what comes from the one piece from what comes from the other."""
    last = max((frame for _, frame in earlier), default=0)
    return all(frame >= last - NEAR_FRAMES for _, frame in later)
