"""Recognize whole utterances in modules with a fixed number of operations, without a loop.

As in `export.stages.looped`, the caller runs more rounds while an utterance is unfinished, so no
token is lost, and a round after the end changes no output.

While an RNN-T emits blanks, the output of its predictor does not change. So a round evaluates
several frames at once and goes to the first one that emits a token: the tokens are those of the
loop over single frames, with about as many rounds as tokens (cf. label-looping, Bataev et al. 2024,
arXiv 2406.06220). TDT skips frames by itself, so a round is one step of its loop.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from export.stages.adapters import Adapters, GatheredAdapters, project, split_off_adapters
from export.stages.decoder import HEAD
from export.stages.layers import in_type_of
from export.stages.offline.decoder import CtcDecoder, TransducerDecoder
from export.stages.offline.feature_extractor import OfflineFeatureExtractor
from export.stages.offline.fused_encoder import FusedOfflineEncoder

ROUNDS = 8
"""Rounds in one run of `Rounds`: as many as a second of ordinary speech needs."""
WINDOW = 8
"""Frames that a round of an RNN-T evaluates: most gaps between two tokens are shorter."""


class LoopState(NamedTuple):
    """State of the search over a batch of utterances: at most M tokens, and one unused column."""

    frame: Tensor
    """The next frame to evaluate, int64 [B]."""
    steps: Tensor
    """Rounds so far, int64 [B]; they bound the tokens of a TDT."""
    symbols: Tensor
    """Tokens emitted so far on that frame, int64 [B]."""
    predictor: Tensor
    """float32 [B, P]"""
    tokens: Tensor
    """int32 [B, M + 1]"""
    token_frames: Tensor
    """int32 [B, M + 1]"""
    logprobs: Tensor
    """float32 [B, M + 1]"""
    token_count: Tensor
    """int64 [B]"""


class _Recognizer(nn.Module):
    """A module whose arguments are AUDIO and AUDIO_LENGTH.

    With adapters of rank `adapter_rank`, they are followed by the pools of the stages with
    adapters, and by the slots of the utterances' adapters.
    """

    def __init__(
        self,
        feature_extractor: OfflineFeatureExtractor,
        encoder: FusedOfflineEncoder,
        decoder: CtcDecoder | TransducerDecoder,
        adapter_rank: int,
    ) -> None:
        super().__init__()
        self.feature_extractor, self.encoder = feature_extractor, encoder
        self._plans = [stage.adapter_plan(adapter_rank) for stage in (encoder, decoder)]

    def _encode(self, arguments: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Adapters | None]:
        """Return the outputs of the encoder, and the adapters of the decoder."""
        inputs, (encoder_adapters, adapters) = split_off_adapters(arguments, self._plans)
        mel, mel_length = self.feature_extractor(*inputs)
        return *self.encoder(mel, mel_length, adapters=encoder_adapters), adapters


class CtcRecognizer(_Recognizer):
    """`arguments -> FRAME_TOKENS, FRAME_LOGPROBS`; see the stages for shapes."""

    def __init__(
        self,
        feature_extractor: OfflineFeatureExtractor,
        encoder: FusedOfflineEncoder,
        decoder: CtcDecoder,
        adapter_rank: int = 0,
    ) -> None:
        super().__init__(feature_extractor, encoder, decoder, adapter_rank)
        self.decoder = decoder

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """Recognize a batch of utterances."""
        encoded, length, _ = self._encode(arguments)
        return self.decoder(encoded, length)


class BeforeLoop(_Recognizer):
    """`arguments -> encoder frames [B, T, D], their number int64 [B], *adapters, *LoopState`.

    The adapters are two matrices for each layer of the decoder that they change, if there are any.
    """

    def __init__(
        self,
        feature_extractor: OfflineFeatureExtractor,
        encoder: FusedOfflineEncoder,
        decoder: TransducerDecoder,
        adapter_rank: int = 0,
    ) -> None:
        super().__init__(feature_extractor, encoder, decoder, adapter_rank)
        self.decoder = decoder

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """Run up to the loop."""
        encoded, length, adapters = self._encode(arguments)
        predictor, gathered = self.decoder.begin(encoded.shape[0], adapters)
        length = length[:, 0].to(torch.int64)
        columns = encoded.shape[1] * self.decoder.max_symbols + 1
        nothing = torch.full(
            (encoded.shape[0], columns), -1, dtype=torch.int32, device=encoded.device
        )
        zero = torch.zeros_like(length)
        return (
            encoded,
            length,
            *(() if gathered is None else gathered.gathered()),
            *LoopState(
                frame=zero,
                steps=zero.clone(),
                symbols=zero.clone(),
                predictor=predictor,
                tokens=nothing,
                token_frames=nothing.clone(),
                logprobs=nothing.to(encoded.dtype),
                token_count=zero.clone(),
            ),
        )


class Rounds(nn.Module):
    """`outputs of BeforeLoop -> (*LoopState, PENDING)`; PENDING is true if more rounds follow."""

    def __init__(self, decoder: TransducerDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.window = 1 if decoder.has_durations else WINDOW

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Run the rounds; PENDING is one bool."""
        (encoded, length), matrices, state = _split(values)
        projections = self.decoder.projections(self.window)
        adapters = GatheredAdapters(projections, matrices) if matrices else None
        for _ in range(ROUNDS):
            state = self._advance(encoded, length, state, adapters)
        return *state, self._goes_on(length, state).any()

    def _goes_on(self, length: Tensor, state: LoopState) -> Tensor:
        return (state.frame < length) & (state.steps < length * self.decoder.max_symbols)

    def _advance(
        self, encoded: Tensor, length: Tensor, state: LoopState, adapters: Adapters | None
    ) -> LoopState:
        """Run one round: each utterance emits a token, skips blanks, or has ended."""
        decoder = self.decoder
        at = state.frame[:, None] + torch.arange(self.window, device=encoded.device)
        logits = self._logits(encoded, at, state.predictor, adapters)
        emits = logits[..., : decoder.vocab_size].argmax(dim=2) != decoder.blank_token_id
        emits = emits & (at < length[:, None]) & self._goes_on(length, state)[:, None]
        skipped = (~emits).to(torch.int64).cumprod(dim=1).sum(dim=1)
        emitted = skipped < self.window
        here = skipped.clamp(max=self.window - 1)[:, None, None]
        chosen = logits.gather(1, here.expand(-1, 1, logits.shape[2]))[:, 0]
        best, token = chosen[:, : decoder.vocab_size].max(dim=1)
        logprob = best - chosen[:, : decoder.vocab_size].logsumexp(dim=1)
        column = torch.where(emitted, state.token_count, state.tokens.shape[1] - 1)[:, None]
        frame = state.frame + skipped
        advance, symbols = self._move(chosen, emitted, skipped, state.symbols)
        after = decoder.predictor(token, state.predictor, adapters)
        return LoopState(
            frame=state.frame + advance,
            steps=state.steps + 1,
            symbols=symbols,
            predictor=torch.where(emitted[:, None], after, state.predictor),
            tokens=state.tokens.scatter(1, column, token[:, None].to(torch.int32)),
            token_frames=state.token_frames.scatter(1, column, frame[:, None].to(torch.int32)),
            logprobs=state.logprobs.scatter(1, column, logprob[:, None]),
            token_count=state.token_count + emitted.to(torch.int64),
        )

    def _logits(
        self, encoded: Tensor, at: Tensor, predictor: Tensor, adapters: Adapters | None
    ) -> Tensor:
        """Return the logits float32 [B, W, V] at the frames `at` [B, W]."""
        at = at.clamp(max=encoded.shape[1] - 1)[..., None].expand(-1, -1, encoded.shape[2])
        output = predictor[:, None, : self.decoder.hidden_size]
        joined = self.decoder.activation(encoded.gather(1, at) + output)
        rows = in_type_of(self.decoder.head, joined).flatten(0, 1)
        logits = project(self.decoder.head, rows, adapters, HEAD).float()
        return logits.reshape(*joined.shape[:2], -1)

    def _move(
        self, chosen: Tensor, emitted: Tensor, skipped: Tensor, symbols: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the number of frames to advance by, and that of tokens on the frame reached."""
        if self.decoder.has_durations:
            duration = chosen[:, self.decoder.vocab_size :].argmax(dim=1)
            return torch.where(emitted, duration, duration.clamp(min=1)), symbols.clone()
        on_frame = torch.where(skipped == 0, symbols, 0) + 1
        stays = emitted & (on_frame < self.decoder.max_symbols)
        advances = (emitted & ~stays).to(torch.int64)
        return skipped + advances, torch.where(stays, on_frame, 0)


class AfterLoop(nn.Module):
    """`outputs of BeforeLoop -> TOKENS, TOKEN_FRAMES, TOKEN_LOGPROBS, TOKEN_COUNT`."""

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of `TransducerDecoder`."""
        *_, state = _split(values)
        rows = (state.tokens[:, :-1], state.token_frames[:, :-1], state.logprobs[:, :-1])
        # Outputs of a program may not share memory with its inputs.
        return *(values.clone() for values in rows), state.token_count[:, None].to(torch.int32)


def _split(
    values: tuple[Tensor, ...],
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], LoopState]:
    """Return the outputs of the encoder, the matrices of the adapters, and the loop's state."""
    end = len(values) - len(LoopState._fields)
    return values[:2], values[2:end], LoopState(*values[end:])
