"""The gate: exported stages must say what `transformers` says, on real speech, state chained.

In the layout ``stages`` each is fed the reference's own input of that stage, so that a difference
is pinned to the stage that makes it; then the whole chain is compared token for token. Everything
runs on the CPU, on the very files that will be served.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from export.audio import SAMPLE_RATE_HZ
from export.chain import Chain, StreamResult
from export.checkpoint import Checkpoint
from export.errors import ParityFailed
from export.reference import ReferenceResult, transcribe
from export.spec import StreamingSpec

Frames = NDArray[np.float32]

MEL_TOLERANCE = 5e-3
"""Log-mel: two float32 transforms of the same frame, and the logarithm of nearly silent bins."""
ENCODED_TOLERANCE = 2e-3
"""Encoder output, of order 1, after minutes of chained state in float32."""
FEWEST_TOKENS = 20
"""Equal tokens prove nothing where there are none."""
INT8_TOKEN_DIFFERENCE = 0.10
"""An int8 encoder that changes more than this share of the tokens is not worth its speed."""

HALF_TOKEN_DIFFERENCE = 0.05
"""The same of arithmetic in 16 bits."""


@dataclass(frozen=True)
class Parity:
    """What was compared and how far apart it is; goes into the manifest as it stands."""

    audio_seconds: float
    utterances: int
    reference_tokens: int
    mel_max_difference: float | None
    """None, as the next two, where the stages are fused: nobody sees what passes between them."""
    encoded_max_difference: float | None
    decoder_token_difference: float | None
    """Edits per reference token, the decoder alone."""
    chain_token_difference: float
    """Edits per reference token, the whole chain, all utterances in one batch."""
    alone_token_difference: float
    """The same, each utterance in a batch of its own."""
    token_frames_equal: bool

    def as_dict(self) -> dict[str, float | int | bool | None]:
        """For the manifest."""
        return asdict(self)


def check_parity(
    checkpoint: Checkpoint,
    folder: Path,
    spec: StreamingSpec,
    utterances: Sequence[NDArray[np.float32]],
) -> Parity:
    """Compare the stages in ``folder`` with the reference on ``utterances`` (samples [N], 16 kHz).

    Raises:
        ParityFailed: says which stage differs, and by how much.
    """
    references = transcribe(checkpoint, utterances, lookahead=spec.frames - 1)
    chain = Chain(folder, spec, len(utterances))
    results = chain.transcribe(utterances)
    alone = [chain.transcribe([utterance])[0] for utterance in utterances]
    apart = _Apart(None, None, None)
    if spec.layout == "stages":
        apart = _compare_apart(chain, results, references)
    parity = Parity(
        audio_seconds=round(sum(map(len, utterances)) / SAMPLE_RATE_HZ, 2),
        utterances=len(utterances),
        reference_tokens=sum(len(reference.tokens) for reference in references),
        mel_max_difference=apart.mel_max,
        encoded_max_difference=apart.encoded_max,
        decoder_token_difference=apart.decoder_tokens,
        chain_token_difference=_token_difference([r.tokens for r in results], references),
        alone_token_difference=_token_difference([r.tokens for r in alone], references),
        token_frames_equal=_frames_equal(results, references),
    )
    _judge(parity, spec.precision)
    return parity


@dataclass(frozen=True)
class _Apart:
    """What each stage alone makes of the reference's own input of it."""

    mel_max: float | None
    encoded_max: float | None
    decoder_tokens: float | None


def _compare_apart(
    stages: Chain, results: Sequence[StreamResult], references: Sequence[ReferenceResult]
) -> _Apart:
    encoded = stages.encode([reference.mel for reference in references])
    decoded = stages.decode([reference.encoded for reference in references])
    return _Apart(
        _largest(zip((r.mel[0] for r in results), (r.mel for r in references), strict=True)),
        _largest(zip(encoded, (r.encoded for r in references), strict=True)),
        _token_difference(decoded, references),
    )


def _judge(parity: Parity, precision: str) -> None:
    exact = precision == "fp32"
    if parity.reference_tokens < FEWEST_TOKENS:
        raise ParityFailed(
            f"the checkpoint hears only {parity.reference_tokens} tokens in "
            f"{parity.audio_seconds:.0f} s of speech, too few to compare (at least "
            f"{FEWEST_TOKENS}); nothing was installed"
        )
    if parity.mel_max_difference is not None and parity.mel_max_difference > MEL_TOLERANCE:
        _fail("feature_extractor", "log-mel", parity.mel_max_difference, MEL_TOLERANCE)
    encoded = parity.encoded_max_difference
    if exact and encoded is not None and encoded > ENCODED_TOLERANCE:
        _fail("encoder", "output", encoded, ENCODED_TOLERANCE)
    decoder = parity.decoder_token_difference
    # int8 is for the encoder alone; the decoder stays exact.
    allowed = HALF_TOKEN_DIFFERENCE if precision in ("fp16", "bf16") else 0
    if decoder is not None and decoder > allowed:
        _fail("decoder", "share of tokens", decoder, allowed)
    allowed = INT8_TOKEN_DIFFERENCE if precision == "int8" else allowed
    for chain, difference in {
        "the chain of all stages": parity.chain_token_difference,
        "the chain with one stream alone": parity.alone_token_difference,
    }.items():
        if difference > allowed:
            _fail(chain, "share of tokens", difference, allowed)
    if exact and not parity.token_frames_equal:
        raise ParityFailed("the chain of all stages emits the reference's tokens at other frames")


def _fail(stage: str, what: str, got: float, allowed: float) -> None:
    raise ParityFailed(
        f"{stage} differs from transformers: {what} by {got:.3g}, allowed {allowed:.3g}; "
        "nothing was installed"
    )


def _largest(pairs: Iterable[tuple[Frames, Frames]]) -> float:
    """Largest absolute difference; infinite where lengths differ or a value is not a number."""
    largest = 0.0
    for got, expected in pairs:
        if got.shape != expected.shape:
            return float("inf")
        if got.size:
            difference = float(np.abs(got - expected).max())
            largest = max(largest, difference) if np.isfinite(difference) else float("inf")
    return largest


def _token_difference(got: Sequence[list[int]], references: Sequence[ReferenceResult]) -> float:
    edits = sum(
        Levenshtein.distance(tokens, reference.tokens)
        for tokens, reference in zip(got, references, strict=True)
    )
    return edits / max(1, sum(len(reference.tokens) for reference in references))


def _frames_equal(results: Sequence[StreamResult], references: Sequence[ReferenceResult]) -> bool:
    return all(
        result.token_frames == reference.token_frames
        for result, reference in zip(results, references, strict=True)
    )
