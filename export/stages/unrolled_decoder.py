"""Decode greedily without a loop, for runtimes that run loops slowly, such as TensorRT.

Greedy search emits at most `max_symbols_per_step` tokens per frame, so a chunk takes at most
`frames * max_symbols_per_step` evaluations of the joint network. The graph contains that many, one
after the other; with fewer it would have to drop tokens, or pass frames to a next chunk, which does
not exist after the last chunk. So the tokens equal the reference's for any input. The frame of each
evaluation is fixed, so frames are slices and tokens have fixed columns, from which one scatter
collects them.

Results that the next evaluation does not need are computed once, after all of them:
log-probabilities and the selection of emitted tokens. The product of the first LSTM layer with an
embedding is a row of a table.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from export.stages.decoder import Decoder, DecoderInputs
from export.stages.layers import in_type_of
from export.stages.predictor import Predictor, lstm_cell


class UnrolledDecoder(Decoder):
    """`Decoder` without a loop: same inputs, outputs, state and tokens."""

    def __init__(self, model: Any, frames: int) -> None:
        super().__init__(model, frames)
        self.stepped = _SteppedPredictor(self.predictor)
        # It shares weights with the stepped predictor; they would be converted and rescaled twice.
        del self.predictor

    def _decode(
        self, inputs: DecoderInputs, predictor: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        encoded, length = inputs.encoded, inputs.length
        output, *cells = predictor.split(self.dims.decoder_hidden_size, dim=1)
        tokens: list[Tensor] = []
        silent: list[Tensor] = []
        logits: list[Tensor] = []
        for frame in range(self.dims.frames):
            ended = length[:, None] <= frame
            for _ in range(self.dims.max_symbols_per_step):
                joined = self.activation(encoded[:, frame] + output)
                logits.append(self.head(in_type_of(self.head, joined)))
                tokens.append(logits[-1].argmax(dim=1, keepdim=True))
                # Blank ends the frame: the output of its remaining evaluations is ignored.
                ended = ended | (tokens[-1] == self.dims.blank_token_id)
                silent.append(ended)
                cells = self.stepped.advance(tokens[-1], cells, unless=ended)
                output = self.stepped.output(cells)
        emitted = ~torch.cat(silent, dim=1)
        return torch.cat([output, *cells], dim=1), *self._collected(
            torch.where(emitted, torch.cat(tokens, dim=1), -1),
            torch.where(emitted, self._logprobs(torch.cat(logits, dim=1)), -1.0),
        )

    def _logprobs(self, logits: Tensor) -> Tensor:
        """Return the largest log-probability [B, M] of each evaluation's logits [B, M * V]."""
        logits = logits.reshape(-1, self.dims.max_tokens, self.head.out_features).float()
        best = logits.max(dim=2, keepdim=True).values
        # Not logsumexp: TensorRT sums the bare exponentials, which overflow at logits of 89.
        return -(logits - best).exp().sum(dim=2).log()

    def _collected(self, tokens: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Move the emitted tokens of all evaluations [B, M] to the front, and count them."""
        emitted = tokens >= 0
        column = torch.arange(self.dims.max_tokens, device=tokens.device)[None]
        # TensorRT supports cumulative sums in floating point only; these counts are exact in
        # float32.
        rank = emitted.float().cumsum(1).to(torch.int64) - 1
        # Columns without a token go to distinct columns at the end, so that no index is repeated.
        to = torch.where(emitted, rank, column + self.dims.max_tokens)
        frames = torch.where(emitted, column // self.dims.max_symbols_per_step, -1)
        count = emitted.float().sum(1).to(torch.int32)
        return (
            self._in_front(tokens.to(torch.int32), to),
            self._in_front(frames.to(torch.int32), to),
            self._in_front(logprobs, to),
            count,
        )

    def _in_front(self, values: Tensor, to: Tensor) -> Tensor:
        nothing = torch.full_like(values, -1).repeat(1, 2)
        return nothing.scatter(1, to, values)[:, : self.dims.max_tokens]


class _SteppedPredictor(nn.Module):
    """`Predictor` with a table for tokens, and its state as separate tensors: h and c by layer."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        first, *others = (gates for gates in predictor.gates if isinstance(gates, nn.Linear))
        embedding = predictor.embedding.weight.detach()
        from_token, from_hidden = first.weight.detach().split(predictor.hidden_size, dim=1)
        self.token_gates = nn.Embedding.from_pretrained(embedding @ from_token.T + first.bias)
        self.hidden_gates = nn.Linear(predictor.hidden_size, len(from_hidden), bias=False)
        self.hidden_gates.weight = nn.Parameter(from_hidden.contiguous())
        self.gates = nn.ModuleList(others)
        self.projector = predictor.projector

    def advance(self, token: Tensor, cells: list[Tensor], unless: Tensor) -> list[Tensor]:
        """Return h and c [B, H] of each layer after a token, or as they were where `unless`.

        Token int64 [B, 1], `unless` [B, 1].
        """
        hidden = in_type_of(self.hidden_gates, cells[0])
        gates = self.token_gates(token)[:, 0].float() + self.hidden_gates(hidden).float()
        after = list(lstm_cell(gates, cells[1]))
        for layer, linear in enumerate(self.gates, start=1):
            assert isinstance(linear, nn.Linear)
            into_gates = torch.cat([after[-2], cells[2 * layer]], dim=1)
            gates = linear(in_type_of(linear, into_gates)).float()
            after += lstm_cell(gates, cells[2 * layer + 1])
        pairs = zip(cells, after, strict=True)
        return [torch.where(unless, before, now) for before, now in pairs]

    def output(self, cells: list[Tensor]) -> Tensor:
        """Return the output [B, D] of the predictor, from h of the last layer."""
        return self.projector(in_type_of(self.projector, cells[-2])).float()
