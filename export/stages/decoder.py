"""Decode one chunk greedily with a transducer, for a batch of streams, as one graph.

Equivalent to `NemotronAsrStreamingForRNNT.generate`: at each encoder frame emit tokens until blank
or `max_symbols_per_step`, then go to the next frame (Graves 2012). All streams step together; each
has its own frame pointer. The loop ends when every stream is past its last frame, so a symbol count
is never carried over to the next chunk.

State (one row): number of frames decoded (see `frame_count.py`), the last `CONTEXT_TOKENS` tokens
plus one (0 where none), predictor output, then h and c of each LSTM layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop

from export.stages import frame_count
from export.stages.adapters import Adapters, GatheredAdapters, Projection, project
from export.stages.layout import CONTEXT_TOKENS, StateLayout
from export.stages.predictor import PROJECTOR, Predictor
from export.stages.state import Stage, State, Update, all_rows

HEAD = "joint.head"
"""Name of the last layer of the joint network in the checkpoint."""


@dataclass(frozen=True)
class DecoderDims:
    """Sizes of a decoder, named after the fields of `NemotronAsrStreamingConfig`."""

    frames: int
    """T, encoder frames per chunk."""
    decoder_hidden_size: int
    num_decoder_layers: int
    max_symbols_per_step: int
    blank_token_id: int

    @classmethod
    def from_config(cls, config: Any, frames: int) -> DecoderDims:
        """Read the sizes from a transformers config."""
        return cls(
            frames=frames,
            decoder_hidden_size=config.decoder_hidden_size,
            num_decoder_layers=config.num_decoder_layers,
            max_symbols_per_step=config.max_symbols_per_step,
            blank_token_id=config.blank_token_id,
        )

    @property
    def max_tokens(self) -> int:
        """Return the largest number of tokens of one chunk."""
        return self.frames * self.max_symbols_per_step

    @property
    def part_sizes(self) -> list[int]:
        """Return the sizes of the parts of the state, in order; see the module's docstring."""
        layers = [self.decoder_hidden_size] * (2 * self.num_decoder_layers)
        return [frame_count.VALUES, CONTEXT_TOKENS, self.decoder_hidden_size, *layers]


class DecoderInputs(NamedTuple):
    """Values that the search over one chunk reads and does not change."""

    encoded: Tensor
    """[B, T, D]"""
    length: Tensor
    """Valid frames, int64 [B]."""
    frames_before: Tensor
    """Frames of the stream before this chunk, [B, 2]; see `frame_count.py`."""
    context: Tensor
    """The last tokens before this chunk plus one, [B, CONTEXT_TOKENS]."""
    adapters: tuple[Tensor, ...] = ()
    """The matrices of the streams' adapters, if there are any; see `Adapters.gathered`."""


class Decoder(Stage):
    """ENCODED [B, T, D], ENCODED_LENGTH int32 [B, 1] -> tokens of the chunk.

    Outputs: TOKENS and TOKEN_FRAMES int32 [B, M] and TOKEN_LOGPROBS float32 [B, M], padded with -1;
    TOKEN_COUNT int32 [B, 1]; PREVIOUS_TOKENS int32 [B, 8], the tokens before this chunk, oldest
    first, padded with -1 in front. M is `DecoderDims.max_tokens`. TOKEN_FRAMES count encoder
    frames from the start of the stream's audio.

    Args:
        model: `NemotronAsrStreamingForRNNT`, in float32.
        frames: T, encoder frames per chunk.
    """

    def __init__(self, model: Any, frames: int) -> None:
        super().__init__()
        self.dims = DecoderDims.from_config(model.config, frames)
        self.layout = StateLayout(rows=1, width=sum(self.dims.part_sizes))
        self.predictor = Predictor(model.decoder)
        self.activation = model.joint.activation
        self.head = model.joint.head
        self.start = nn.Buffer(self._start_of_stream())

    def _start_of_stream(self) -> Tensor:
        """Return predictor output, h and c after the blank that opens every utterance, flat."""
        blank = torch.tensor([self.dims.blank_token_id])
        zero = torch.zeros(1, sum(self.dims.part_sizes[2:]))
        with torch.no_grad():
            return self.predictor(blank, zero)

    def projections(self) -> tuple[Projection, ...]:
        """See `AdaptedModule.projections`."""
        return (
            Projection.of(self.predictor.projector, PROJECTOR, frames=1),
            Projection.of(self.head, HEAD, frames=1),
        )

    def step(
        self, *inputs: Tensor, state: State, adapters: Adapters | None = None
    ) -> tuple[tuple[Tensor, ...], Update]:
        """Decode one chunk; see the class and module for shapes and state."""
        decoder_inputs, predictor = self.begin(*inputs, state=state, adapters=adapters)
        return self.finish(decoder_inputs, self._decode(decoder_inputs, predictor))

    def begin(
        self, *inputs: Tensor, state: State, adapters: Adapters | None = None
    ) -> tuple[DecoderInputs, Tensor]:
        """Return the inputs of the search, and the predictor's state [B, P] at its start."""
        encoded, encoded_length = inputs
        parts = [frame_count.VALUES, CONTEXT_TOKENS, self.start.shape[1]]
        frames_before, context, predictor = state.read(0, 1)[:, 0].split(parts, dim=1)
        # Gathered once for all rounds of the search, which use them repeatedly.
        matrices = () if adapters is None else adapters.gathered()
        start = self.start
        if matrices:
            start = start.expand(encoded.shape[0], -1)
            start = self.predictor.changed(start, GatheredAdapters(self.projections(), matrices))
        predictor = torch.where(frame_count.has_begun(frames_before), predictor, start)
        length = encoded_length[:, 0].to(torch.int64)
        return DecoderInputs(encoded, length, frames_before, context, matrices), predictor

    def finish(
        self, inputs: DecoderInputs, result: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    ) -> tuple[tuple[Tensor, ...], Update]:
        """Return the outputs and next state of a chunk from the result of `_decode`."""
        predictor, tokens, frames, logprobs, count = result
        frames_before, context = inputs.frames_before, inputs.context
        first_frame = frame_count.as_integer(frames_before)
        absolute = torch.where(tokens >= 0, frames + first_frame, frames)
        next_context = _last_tokens(context, tokens, count)
        frames_after = frame_count.advanced(frames_before, inputs.length[:, None])
        values = torch.cat([frames_after, next_context, predictor], dim=1)[:, None]
        update = Update(rows=all_rows(self.layout, context), values=values)
        previous = context.to(torch.int32) - 1
        return (tokens, absolute, logprobs, count[:, None], previous), update

    def _joint(
        self, frame: Tensor, predictor: Tensor, adapters: Adapters | None
    ) -> tuple[Tensor, Tensor]:
        """Return the most likely token int64 [B] at encoder frame `frame` [B, D], and its logprob.

        Softmax and its sum are float32 in every precision.
        """
        joined = self.activation(frame + predictor[:, : self.dims.decoder_hidden_size])
        logits = project(self.head, joined.to(self.head.weight.dtype), adapters, HEAD).float()
        best, token = logits.max(dim=1)
        # Not logsumexp: TensorRT sums the bare exponentials, which overflow at logits of 89.
        return token, -(logits - best[:, None]).exp().sum(dim=1).log()

    def _decode(
        self, inputs: DecoderInputs, predictor: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Run the greedy loop; return predictor state, tokens, frames, logprobs, count [B]."""
        encoded, length, _, _, matrices = inputs

        def unfinished(frame: Tensor, *_: Tensor) -> Tensor:
            return (frame < length).any()

        def advance(*loop_state: Tensor) -> tuple[Tensor, ...]:
            return self.advance(encoded, length, loop_state, matrices)

        loop_state = while_loop(unfinished, advance, self.before_loop(encoded, length, predictor))
        _, _, predictor, tokens, frames, logprobs, count = loop_state
        return predictor, tokens, frames, logprobs, count

    def before_loop(self, encoded: Tensor, length: Tensor, predictor: Tensor) -> tuple[Tensor, ...]:
        """Return the state of the loop before its first round.

        Frame and symbols on it int64 [B], predictor state [B, P], tokens and their frames int32
        [B, M], logprobs float32 [B, M], count int32 [B].
        """
        zero = torch.zeros_like(length)
        nothing = torch.full(
            (encoded.shape[0], self.dims.max_tokens), -1, dtype=torch.int32, device=encoded.device
        )
        return (
            zero,
            zero.clone(),
            predictor,
            nothing,
            nothing.clone(),
            nothing.to(encoded.dtype),
            zero.to(torch.int32),
        )

    def advance(
        self,
        encoded: Tensor,
        length: Tensor,
        loop_state: tuple[Tensor, ...],
        matrices: tuple[Tensor, ...] = (),
    ) -> tuple[Tensor, ...]:
        """Run one round: each stream emits a token, goes to the next frame, or has ended.

        `matrices` are the matrices of the streams' adapters, if any.
        """
        adapters = GatheredAdapters(self.projections(), matrices) if matrices else None
        frame, symbols, predictor, tokens, frames, logprobs, count = loop_state
        dims = self.dims
        column = torch.arange(dims.max_tokens, device=encoded.device)[None]
        at = frame.clamp(max=dims.frames - 1)[:, None, None].expand(-1, 1, encoded.shape[2])
        token, logprob = self._joint(encoded.gather(1, at)[:, 0], predictor, adapters)
        emits = (frame < length) & (token != dims.blank_token_id)
        here = emits[:, None] & (column == count[:, None])
        tokens = torch.where(here, token[:, None].to(torch.int32), tokens)
        frames = torch.where(here, frame[:, None].to(torch.int32), frames)
        logprobs = torch.where(here, logprob[:, None], logprobs)
        after = self.predictor(token, predictor, adapters)
        predictor = torch.where(emits[:, None], after, predictor)
        symbols = torch.where(emits, symbols + 1, torch.zeros_like(symbols))
        advances = ~emits | (symbols >= dims.max_symbols_per_step)
        symbols = torch.where(advances, torch.zeros_like(symbols), symbols)
        frame = frame + advances.to(frame.dtype)
        count = count + emits.to(count.dtype)
        return frame, symbols, predictor, tokens, frames, logprobs, count


def _last_tokens(context: Tensor, tokens: Tensor, count: Tensor) -> Tensor:
    """Return the last `CONTEXT_TOKENS` of context and tokens, as token plus one, 0 where none."""
    joined = torch.cat([context, (tokens + 1).to(context.dtype)], dim=1)
    position = torch.arange(CONTEXT_TOKENS, device=context.device)[None]
    return joined.gather(1, position + count[:, None].to(torch.int64))
