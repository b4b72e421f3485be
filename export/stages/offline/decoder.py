"""Decode whole utterances greedily, frame by frame (CTC) or in a loop (RNN-T, TDT).

A transducer uses the loop of the streaming decoder over all frames, with two ways to advance: RNN-T
goes to the next frame on blank or after `max_symbols_per_step` tokens (Graves 2012); TDT predicts
with each token how many frames to skip, possibly none (Xu et al. 2023, arXiv 2304.06795).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop

from export.stages.adapters import AdaptedModule, Adapters, GatheredAdapters, Projection, project
from export.stages.decoder import HEAD
from export.stages.predictor import PROJECTOR, Predictor


class CtcDecoder(AdaptedModule):
    """ENCODED float32 [B, T, D], ENCODED_LENGTH int32 [B, 1] -> the best label of every frame.

    Outputs: FRAME_TOKENS int32 [B, T], including blanks, and blank after the end; FRAME_LOGPROBS
    float32 [B, T]. Repetitions are collapsed in the backend, not here.

    Args:
        model: `ParakeetForCTC`, in float32.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.blank_token_id = model.config.pad_token_id
        self.weight = nn.Parameter(model.ctc_head.weight.detach()[:, :, 0])
        self.bias = model.ctc_head.bias

    def forward(self, encoded: Tensor, encoded_length: Tensor) -> tuple[Tensor, Tensor]:
        """Decode a batch of utterances; see the class."""
        logits = nn.functional.linear(encoded, self.weight, self.bias)
        best, token = logits.max(dim=2)
        frame = torch.arange(encoded.shape[1], dtype=torch.int32, device=encoded.device)
        token = torch.where(frame < encoded_length, token, self.blank_token_id)
        # Not logsumexp: TensorRT would sum the bare exponentials, which overflow.
        rest = (logits - best[..., None]).exp().sum(dim=2)
        return token.to(torch.int32), -rest.log()


class TransducerDecoder(AdaptedModule):
    """ENCODED float32 [B, T, D], ENCODED_LENGTH int32 [B, 1] -> tokens of the utterance.

    Outputs: TOKENS and TOKEN_FRAMES int32 [B, M] and TOKEN_LOGPROBS float32 [B, M], padded with -1;
    TOKEN_COUNT int32 [B, 1]. M is `T * max_symbols_per_step`: no utterance of RNN-T has more steps.
    TDT itself has no bound, because tokens of no duration may follow each other forever; it ends
    after the same number of steps, as the reference does with that bound.

    Args:
        model: a transducer of `transformers` with an LSTM prediction network, in float32.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.config
        self.blank_token_id = config.blank_token_id
        self.vocab_size = config.vocab_size
        self.hidden_size = config.decoder_hidden_size
        self.max_symbols = config.max_symbols_per_step
        self.predictor = Predictor(model.decoder)
        self.activation = model.joint.activation
        self.head = model.joint.head
        self.has_durations = self.head.out_features > self.vocab_size
        self.start = nn.Buffer(self._start_of_utterance())

    def _start_of_utterance(self) -> Tensor:
        """Return predictor output, h and c after the blank that opens every utterance, flat."""
        zero = torch.zeros(1, self.hidden_size * (1 + 2 * self.predictor.num_layers))
        with torch.no_grad():
            return self.predictor(torch.tensor([self.blank_token_id]), zero)

    def projections(self, window: int = 1) -> tuple[Projection, ...]:
        """See `AdaptedModule.projections`.

        Args:
            window: frames of one utterance that the head takes at once.
        """
        return (
            Projection.of(self.predictor.projector, PROJECTOR, frames=1),
            Projection.of(self.head, HEAD, frames=window),
        )

    def begin(
        self, batch: int, adapters: Adapters | None
    ) -> tuple[Tensor, GatheredAdapters | None]:
        """Return the predictor's state before the first frame, and the adapters for the loop.

        Their matrices are gathered once for all rounds, which use them repeatedly.
        """
        start = self.start.expand(batch, -1).clone()
        if adapters is None:
            return start, None
        gathered = GatheredAdapters(self.projections(), adapters.gathered())
        return self.predictor.changed(start, gathered), gathered

    def forward(
        self, encoded: Tensor, encoded_length: Tensor, adapters: Adapters | None = None
    ) -> tuple[Tensor, ...]:
        """Decode a batch of utterances; see the class."""
        batch, frames = encoded.shape[0], encoded.shape[1]
        length = encoded_length[:, 0].to(torch.int64)
        # One column more than there can be tokens, to which rows that emit nothing write.
        unused = frames * self.max_symbols
        start, gathered = self.begin(batch, adapters)

        def unfinished(frame: Tensor, steps: Tensor, *_: Tensor) -> Tensor:
            return self._goes_on(frame, steps, length).any()

        def emit_or_advance(
            frame: Tensor,
            steps: Tensor,
            symbols: Tensor,
            predictor: Tensor,
            tokens: Tensor,
            token_frames: Tensor,
            logprobs: Tensor,
            count: Tensor,
        ) -> tuple[Tensor, ...]:
            at = frame.clamp(max=frames - 1)[:, None, None].expand(-1, 1, encoded.shape[2])
            current = encoded.gather(1, at)[:, 0]
            joined = self.activation(current + predictor[:, : self.hidden_size])
            logits = project(self.head, joined, gathered, HEAD)
            labels = logits[:, : self.vocab_size]
            best, token = labels.max(dim=1)
            emits = self._goes_on(frame, steps, length) & (token != self.blank_token_id)
            column = torch.where(emits, count, unused)[:, None]
            tokens = tokens.scatter(1, column, token[:, None].to(torch.int32))
            token_frames = token_frames.scatter(1, column, frame[:, None].to(torch.int32))
            logprobs = logprobs.scatter(1, column, (best - labels.logsumexp(dim=1))[:, None])
            after = self.predictor(token, predictor, gathered)
            predictor = torch.where(emits[:, None], after, predictor)
            advance, symbols = self._advance(logits, emits, symbols)
            count = count + emits.to(count.dtype)
            return (
                frame + advance,
                steps + 1,
                symbols,
                predictor,
                tokens,
                token_frames,
                logprobs,
                count,
            )

        zero = torch.zeros_like(length)
        nothing = torch.full((batch, unused + 1), -1, dtype=torch.int32, device=encoded.device)
        loop_state = (
            zero,
            zero.clone(),
            zero.clone(),
            start,
            nothing,
            nothing.clone(),
            nothing.to(encoded.dtype),
            zero.clone(),
        )
        *_, tokens, token_frames, logprobs, count = while_loop(
            unfinished, emit_or_advance, loop_state
        )
        rows = (tokens[:, :-1], token_frames[:, :-1], logprobs[:, :-1])
        return *rows, count[:, None].to(torch.int32)

    def _goes_on(self, frame: Tensor, steps: Tensor, length: Tensor) -> Tensor:
        return (frame < length) & (steps < length * self.max_symbols)

    def _advance(self, logits: Tensor, emits: Tensor, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of frames to advance by, and that of tokens on the frame reached."""
        if self.has_durations:
            duration = logits[:, self.vocab_size :].argmax(dim=1)
            return torch.where(emits, duration, duration.clamp(min=1)), symbols.clone()
        symbols = torch.where(emits, symbols + 1, torch.zeros_like(symbols))
        advances = ~emits | (symbols >= self.max_symbols)
        return advances.to(torch.int64), torch.where(advances, torch.zeros_like(symbols), symbols)
