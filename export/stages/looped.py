"""Split stages at the decoder's loop into modules with a fixed number of operations.

A loop whose end depends on the data cannot be recorded as a CUDA graph. Three modules can: one up
to the loop, one for a few rounds of it, and one that completes the chunk. The caller runs more
rounds while a stream is unfinished, so no token is lost, and a round after the end changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from export.stages.decoder import Decoder, DecoderInputs
from export.stages.state import PooledStages, Stage, run_in_a_row

ROUNDS = 4
"""Rounds in one run of `Rounds`: enough to make the cost of the launch small."""


class BeforeLoop(nn.Module):
    """`arguments of PooledStages -> (*values, *updates)` of all stages up to the decoder's loop.

    `values` are the `DecoderInputs` and the loop's state, flat. Each stage has an update, except
    the decoder, whose state changes after the loop.
    """

    def __init__(self, stages: Sequence[Stage], decoder: Decoder, adapter_rank: int = 0) -> None:
        super().__init__()
        self.stages = PooledStages([*stages, decoder], adapter_rank)
        self.decoder = decoder

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """Run the module; see the class."""
        inputs, (*before, last) = self.stages.bind(arguments)
        values, updates = run_in_a_row(inputs, before)
        decoder_inputs, predictor = self.decoder.begin(
            *values, state=last.state, adapters=last.adapters
        )
        *flat, matrices = decoder_inputs
        encoded, length = decoder_inputs.encoded, decoder_inputs.length
        loop_state = self.decoder.before_loop(encoded, length, predictor)
        return *flat, *matrices, *loop_state, *updates


class _AtLoop(nn.Module):
    """A module whose arguments are the `values` of `BeforeLoop`."""

    def __init__(self, decoder: Decoder, adapter_rank: int = 0) -> None:
        super().__init__()
        self.decoder = decoder
        self._matrices = 2 * len(decoder.projections()) if adapter_rank else 0

    def _split(self, values: tuple[Tensor, ...]) -> tuple[DecoderInputs, tuple[Tensor, ...]]:
        """Return the inputs of the decoder and the loop's state."""
        encoded, length, frames_before, context, *rest = values
        matrices, loop_state = tuple(rest[: self._matrices]), tuple(rest[self._matrices :])
        return DecoderInputs(encoded, length, frames_before, context, matrices), loop_state


class Rounds(_AtLoop):
    """`values -> (*loop_state, PENDING)`; PENDING is true if a stream is unfinished."""

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Run the rounds; PENDING is one bool."""
        inputs, loop_state = self._split(values)
        for _ in range(ROUNDS):
            loop_state = self.decoder.advance(
                inputs.encoded, inputs.length, loop_state, inputs.adapters
            )
        return *loop_state, (loop_state[0] < inputs.length).any()


class AfterLoop(_AtLoop):
    """`values -> (*outputs, UPDATE, UPDATE_ROWS)` of the decoder."""

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Run the module; see the class."""
        inputs, (_, _, predictor, tokens, frames, logprobs, count) = self._split(values)
        outputs, update = self.decoder.finish(inputs, (predictor, tokens, frames, logprobs, count))
        return *outputs, update.values, update.rows


def fewest_rounds(decoder: Decoder) -> int:
    """Return the rounds that a chunk of ordinary speech needs: one per frame, and more for tokens.

    At four tokens a second, a chunk of T frames has T / 3 tokens, and up to twice as many in a
    large batch.
    """
    frames = decoder.dims.frames
    return frames + max(ROUNDS, -(-2 * frames // 3))
