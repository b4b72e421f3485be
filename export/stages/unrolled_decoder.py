"""The greedy decoder as straight-line code: for runtimes that dislike loops, such as TensorRT.

Greedy search emits at most `max_symbols_per_step` tokens at a frame, so that a chunk takes at
most `frames * max_symbols_per_step` evaluations of the joint network, and this many are laid out
one after the other. A smaller number would have to drop tokens or hand frames on to the next chunk,
and the last chunk of a stream has none: with the whole number the tokens are those of the
reference for any input, whatever it costs. Its place in a frame is known for each evaluation, so
that frames are slices and tokens fall into fixed places, from which one scatter collects them.
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
                # Blank ends the frame: what the rest of its evaluations says is not listened to.
                emits = emits & (token != self.dims.blank_token_id)
                tokens.append(torch.where(emits, token, -1))
                logprobs.append(torch.where(emits, logprob, -1.0))
                stepped = self.predictor(token, predictor)
                predictor = torch.where(emits[:, None], stepped, predictor)
        return predictor, *self._collected(torch.stack(tokens, 1), torch.stack(logprobs, 1))

    def _collected(self, tokens: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From one place per evaluation [B, M] to the emitted ones in front; and their number."""
        emitted = tokens >= 0
        place = torch.arange(self.dims.max_tokens, device=tokens.device)[None]
        # TensorRT sums cumulatively in floating point only; these counts are exact in float32.
        rank = emitted.float().cumsum(1).to(torch.int64) - 1
        # Places without a token go behind the others, each to its own: no index comes twice.
        to = torch.where(emitted, rank, place + self.dims.max_tokens)
        frames = torch.where(emitted, place // self.dims.max_symbols_per_step, -1)
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
