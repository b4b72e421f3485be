"""Split stages at the decoder's loop into modules of fixed length.

A loop whose end depends on the data cannot be recorded as a CUDA graph. Three modules can: one that
runs up to the loop, one that runs a few rounds of it, one that completes the chunk. The caller runs
more rounds while a stream is unfinished, so no token is lost, and a round after the end changes
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from export.stages.decoder import Decoder, DecoderInputs
from export.stages.state import PooledStages, PooledState, Stage

ROUNDS = 4
"""Rounds of one run of `Rounds`: enough to make the cost of its launch small."""
INPUTS = len(DecoderInputs._fields)


class BeforeLoop(nn.Module):
    """`(*inputs, *pools, SLOTS) -> (*values, *updates)` of all stages up to the decoder's loop.

    `values` are the `DecoderInputs` and the loop's state, flat. Each stage has an update, except
    the decoder, whose state changes after the loop.
    """

    def __init__(self, stages: Sequence[Stage], decoder: Decoder) -> None:
        super().__init__()
        self.stages = PooledStages(stages)
        self.decoder = decoder

    def forward(self, *inputs_pools_and_slots: Tensor) -> tuple[Tensor, ...]:
        """Run the module; see the class."""
        *inputs, pool, slots = inputs_pools_and_slots
        values, updates = self.stages.run(*inputs, slots)
        state = PooledState(pool, slots, self.decoder.layout)
        decoder_inputs, predictor = self.decoder.begin(*values, state=state)
        encoded, length = decoder_inputs.encoded, decoder_inputs.length
        loop_state = self.decoder.before_loop(encoded, length, predictor)
        return *decoder_inputs, *loop_state, *updates


class Rounds(nn.Module):
    """`values -> (*loop_state, PENDING)`: some rounds, and whether a stream is still unfinished."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Run the rounds; PENDING is one bool."""
        inputs, loop_state = DecoderInputs(*values[:INPUTS]), values[INPUTS:]
        for _ in range(ROUNDS):
            loop_state = self.decoder.advance(inputs.encoded, inputs.length, loop_state)
        return *loop_state, (loop_state[0] < inputs.length).any()


class AfterLoop(nn.Module):
    """`values -> (*outputs, UPDATE, UPDATE_ROWS)` of the decoder."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Run the module; see the class."""
        _, _, predictor, tokens, frames, logprobs, count = values[INPUTS:]
        result = (predictor, tokens, frames, logprobs, count)
        outputs, update = self.decoder.finish(DecoderInputs(*values[:INPUTS]), result)
        return *outputs, update.values, update.rows


def fewest_rounds(decoder: Decoder) -> int:
    """Return the rounds that a chunk of ordinary speech takes: one per frame, and more for tokens.

    At four tokens a second, a chunk of T frames has T / 3 tokens, and up to twice as many in a
    large batch.
    """
    frames = decoder.dims.frames
    return frames + max(ROUNDS, -(-2 * frames // 3))
