"""Decode greedily without a loop, for runtimes that run loops slowly, such as TensorRT.

Greedy search emits at most `max_symbols_per_step` tokens at a frame, so that a chunk takes at most
`frames * max_symbols_per_step` evaluations of the joint network. The graph contains that many, one
after the other. With fewer it would have to drop tokens, or pass frames to the next chunk, which
the last chunk of a stream does not have. So the tokens equal the reference's for any input. The
frame of each evaluation is known, so that frames are slices and tokens have fixed columns, from
which one scatter collects them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from export.stages.decoder import Decoder


class UnrolledDecoder(Decoder):
    """`Decoder` without a loop: same inputs, outputs, state and tokens."""

    def _decode(
        self, encoded: Tensor, length: Tensor, predictor: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        tokens: list[Tensor] = []
        logprobs: list[Tensor] = []
        for frame in range(self.dims.frames):
            emits = length > frame
            for _ in range(self.dims.max_symbols_per_step):
                token, logprob = self._joint(encoded[:, frame], predictor)
                # Blank ends the frame: the output of its other evaluations is ignored.
                emits = emits & (token != self.dims.blank_token_id)
                tokens.append(torch.where(emits, token, -1))
                logprobs.append(torch.where(emits, logprob, -1.0))
                stepped = self.predictor(token, predictor)
                predictor = torch.where(emits[:, None], stepped, predictor)
        return predictor, *self._collected(torch.stack(tokens, 1), torch.stack(logprobs, 1))

    def _collected(self, tokens: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Move the emitted tokens of all evaluations [B, M] to the front, and count them."""
        emitted = tokens >= 0
        column = torch.arange(self.dims.max_tokens, device=tokens.device)[None]
        # TensorRT sums cumulatively in floating point only; these counts are exact in float32.
        rank = emitted.float().cumsum(1).to(torch.int64) - 1
        # Columns without a token go to the end, each to its own, so that no index is repeated.
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
