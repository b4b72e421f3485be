"""Compare the output of exported stages with that of `transformers`, and refuse differences.

Each stage gets the reference's input of that stage, so that a difference is attributed to the stage
that causes it; then the whole chain is compared token for token. Everything runs in the runtime
that will serve it, from the exported files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from export.audio import SAMPLE_RATE_HZ
from export.errors import ParityFailed

Frames = NDArray[np.float32]

MEL_TOLERANCE = 5e-3
"""Tolerance of log-mel, for the rounding of two float32 transforms in nearly silent bins."""
NORMALIZED_MEL_TOLERANCE = 5e-2
"""Tolerance of normalized log-mel: in a nearly silent bin, that rounding is divided by a small
deviation. On the recordings of this repository the reference itself differs by up to 0.009 from
float64."""
ENCODED_TOLERANCE = 2e-3
"""Tolerance of the encoder output, of order 1, after minutes of chained state in float32."""
FEWEST_TOKENS = 20
"""With fewer reference tokens, equality is no evidence."""
TOKEN_DIFFERENCE = {"fp32": 0.0, "fp16": 0.05, "bf16": 0.20, "fp8": 0.20, "int8": 0.10}
"""Largest share of tokens that each precision may change."""
EXACT_DECODERS = ("fp32", "int8")
"""Precisions whose decoder computes in float32."""


@dataclass(frozen=True)
class Parity:
    """Sizes of a comparison and the differences that it found, as they go into the manifest."""

    audio_seconds: float
    utterances: int
    reference_tokens: int
    mel_max_difference: float | None
    """None, like the next two, if the stages are fused, which hides the tensors between them."""
    encoded_max_difference: float | None
    decoder_token_difference: float | None
    """Edits per reference token of the decoder alone."""
    chain_token_difference: float
    """Edits per reference token of the whole chain, all utterances in one batch."""
    alone_token_difference: float
    """The same with each utterance in a batch of its own."""
    token_frames_equal: bool

    def as_dict(self) -> dict[str, float | int | bool]:
        """Return the entries for the manifest."""
        return asdict(self)


class Transcription(Protocol):
    """Tokens that the original or the exported stages output for one utterance."""

    @property
    def tokens(self) -> list[int]:
        """Return the token ids."""
        ...

    @property
    def token_frames(self) -> list[int]:
        """Return the encoder frame that emitted each token."""
        ...


class Reference(Transcription, Protocol):
    """Tokens and intermediate frames of the original for one utterance."""

    @property
    def mel(self) -> Frames:
        """Return the valid mel frames [M, n_mels]."""
        ...

    @property
    def encoded(self) -> Frames:
        """Return the valid encoder frames [E, D]."""
        ...


@dataclass(frozen=True)
class Comparison:
    """One entry per utterance in every list."""

    references: Sequence[Reference]
    together: Sequence[Transcription]
    """Output of the whole chain, with the utterances in batches."""
    alone: Sequence[Transcription]
    mels: Sequence[Frames] | None = None
    """None, like the next two, if the stages are fused."""
    encoded: Sequence[Frames] | None = None
    """Output of the encoder for the reference's features."""
    decoded: Sequence[list[int]] | None = None
    """Tokens of the decoder for the reference's encoder frames."""


def evaluate(
    comparison: Comparison,
    utterances: Sequence[NDArray[np.float32]],
    precision: str,
    mel_tolerance: float = MEL_TOLERANCE,
) -> Parity:
    """Return the differences in `comparison` if they are within the limits of `precision`.

    Raises:
        ParityFailed: the message names the stage that differs and the difference.
    """
    references, together = comparison.references, comparison.together
    parity = Parity(
        audio_seconds=round(sum(map(len, utterances)) / SAMPLE_RATE_HZ, 2),
        utterances=len(utterances),
        reference_tokens=sum(len(reference.tokens) for reference in references),
        mel_max_difference=_largest(comparison.mels, [r.mel for r in references]),
        encoded_max_difference=_largest(comparison.encoded, [r.encoded for r in references]),
        decoder_token_difference=None
        if comparison.decoded is None
        else token_difference(comparison.decoded, references),
        chain_token_difference=token_difference([r.tokens for r in together], references),
        alone_token_difference=token_difference([r.tokens for r in comparison.alone], references),
        token_frames_equal=_frames_equal(together, references),
    )
    _check_limits(parity, precision, mel_tolerance)
    return parity


def _check_limits(parity: Parity, precision: str, mel_tolerance: float) -> None:
    exact, allowed = precision == "fp32", TOKEN_DIFFERENCE[precision]
    if parity.reference_tokens < FEWEST_TOKENS:
        raise ParityFailed(
            f"the checkpoint recognizes only {parity.reference_tokens} tokens in "
            f"{parity.audio_seconds:.0f} s of speech, too few to compare (at least "
            f"{FEWEST_TOKENS})"
        )
    limits = [
        ("feature_extractor", "log-mel", parity.mel_max_difference, mel_tolerance),
        ("encoder", "output", parity.encoded_max_difference, ENCODED_TOLERANCE if exact else None),
        (
            "decoder",
            "share of tokens",
            parity.decoder_token_difference,
            0.0 if precision in EXACT_DECODERS else allowed,
        ),
        ("the chain of all stages", "share of tokens", parity.chain_token_difference, allowed),
        (
            "the chain with one stream alone",
            "share of tokens",
            parity.alone_token_difference,
            allowed,
        ),
    ]
    for stage, what, got, most in limits:
        if got is not None and most is not None and got > most:
            _fail(stage, what, got, most)
    if exact and not parity.token_frames_equal:
        raise ParityFailed("the chain of all stages emits the reference's tokens at other frames")


def _fail(stage: str, what: str, got: float, allowed: float) -> None:
    raise ParityFailed(
        f"{stage} differs from transformers: {what} by {got:.3g}, allowed {allowed:.3g}"
    )


def _largest(mine: Sequence[Frames] | None, theirs: Sequence[Frames]) -> float | None:
    """Return the largest difference; infinite if lengths differ or a value is not finite."""
    if mine is None:
        return None
    largest = 0.0
    for got, expected in zip(mine, theirs, strict=True):
        if got.shape != expected.shape:
            return float("inf")
        if got.size:
            difference = float(np.abs(got - expected).max())
            largest = max(largest, difference) if np.isfinite(difference) else float("inf")
    return largest


def token_difference(got: Sequence[list[int]], references: Sequence[Reference]) -> float:
    """Return the edits per reference token, over all utterances."""
    edits = sum(
        Levenshtein.distance(tokens, reference.tokens)
        for tokens, reference in zip(got, references, strict=True)
    )
    return edits / max(1, sum(len(reference.tokens) for reference in references))


def _frames_equal(results: Sequence[Transcription], references: Sequence[Reference]) -> bool:
    return all(
        result.token_frames == reference.token_frames
        for result, reference in zip(results, references, strict=True)
    )
