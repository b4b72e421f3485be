"""Stages in a row, cut at the decoder's loop into pieces of fixed length.

A loop that ends when the data say so cannot be recorded as a CUDA graph. Its pieces can: one that
runs up to the loop, one that goes a few rounds of it, one that closes the chunk. Whoever runs them
goes more rounds for as long as a stream is unfinished, so nothing is cut off, and a round after
the end changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from export.stages.decoder import Decoder, Heard
from export.stages.state import PooledStages, PooledState, Stage

ROUNDS = 4
"""Rounds of one run of `Rounds`: enough that launching it costs little against what it does."""
HEARD = len(Heard._fields)


class BeforeLoop(nn.Module):
    """`(*inputs, *pools, SLOTS) -> (*carried, *updates)` of all stages up to the decoder's loop.

    `carried` is `Heard` and what the loop moves, flat; there is an update for each stage but
    the decoder, whose state changes behind the loop.
    """

    def __init__(self, stages: Sequence[Stage], decoder: Decoder) -> None:
        super().__init__()
        self.stages = PooledStages(stages)
        self.decoder = decoder

    def forward(self, *inputs_pools_and_slots: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        *inputs, pool, slots = inputs_pools_and_slots
        values, updates = self.stages.run(*inputs, slots)
        state = PooledState(pool, slots, self.decoder.layout)
        heard, predictor = self.decoder.begin(*values, state=state)
        moving = self.decoder.before_loop(heard.encoded, heard.length, predictor)
        return *heard, *moving, *updates


class Rounds(nn.Module):
    """`carried -> (*moving, PENDING)`: some rounds, and whether a stream is still unfinished."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *carried: Tensor) -> tuple[Tensor, ...]:
        """See the class; PENDING is one bool."""
        heard, moving = Heard(*carried[:HEARD]), carried[HEARD:]
        for _ in range(ROUNDS):
            moving = self.decoder.advance(heard.encoded, heard.length, moving)
        return *moving, (moving[0] < heard.length).any()


class AfterLoop(nn.Module):
    """`carried -> (*outputs, UPDATE, UPDATE_ROWS)` of the decoder."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *carried: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        _, _, predictor, tokens, frames, logprobs, count = carried[HEARD:]
        found = (predictor, tokens, frames, logprobs, count)
        outputs, update = self.decoder.finish(Heard(*carried[:HEARD]), found)
        return *outputs, update.values, update.rows


def fewest_rounds(decoder: Decoder) -> int:
    """Rounds in which a chunk of ordinary speech ends: one per frame, and some more for tokens.

    At four tokens a second, a chunk of T frames brings T / 3; the slowest of a large batch, twice
    as many.
    """
    frames = decoder.dims.frames
    return frames + max(ROUNDS, -(-2 * frames // 3))
