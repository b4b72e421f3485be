"""`python -m export.random_model`: build a servable model of a given size with random weights.

Capacity depends on the size of a model and on the rate of its tokens, not on its words. The encoder
is random; the decoder is constructed to emit about four tokens per second of real speech in live
streams, three in whole files, distributed as in English. Such a model is not compared with
transformers.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console

from export.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ, SUPPORTED_CHUNK_MS
from export.checkpoint import Checkpoint
from export.errors import ExportError
from export.install import replacing
from export.offline.export import export_offline
from export.options import ExportOptions, Serving, offline_serving
from export.recordings import load_recordings
from export.stages.decoder import Decoder
from export.stages.state import PooledState
from export.streaming.export import export_streaming

VOCABULARY = 1024
TOLERANCE = 0.2
SEARCH_FRAMES = 100
UNRECTIFIED = 4.0
"""Mean of the joint network's units for tokens, with a standard deviation of one."""
RECTIFIED_MEAN = 0.4
"""Mean of a rectified unit whose input has mean zero and standard deviation one."""
INHIBITION = 3.0
"""Inhibition of an emitted token, in units of the standard deviation of a token's logit."""
FADING = 0.9
"""Factor of the inhibition from one token to the next."""
OPEN = 10.0
"""Bias of a fully open gate."""
_console = Console(stderr=True)


@dataclass(frozen=True)
class Size:
    """Sizes named as in `NemotronAsrStreamingConfig` and its encoder's."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    decoder_hidden_size: int
    num_decoder_layers: int
    num_mel_bins: int
    subsampling_conv_channels: int


@dataclass(frozen=True)
class SpeechPieces:
    """Real speech for which a model is built, and the wanted rate of tokens."""

    tokens_per_second: float
    lookahead_frames: int
    count: int
    length_s: float
    skipped_frames: int = 0
    """Encoder frames to skip at the start of each piece."""


LIVE = SpeechPieces(4.0, lookahead_frames=6, count=2, length_s=30.0, skipped_frames=70)
"""Pieces as long as streams, because the output of a deep encoder drifts for hundreds of frames.
Frames without the full left context are skipped: they differ from the others, and are few."""
FILES = SpeechPieces(3.0, lookahead_frames=13, count=4, length_s=11.0)
"""Pieces as long as files, which are recognized with the largest lookahead. The file with the most
tokens determines the rounds of its run, so the first frames count, too."""

SIZES = {
    "115m": Size(17, 512, 8, 640, 1, 80, 256),
    "0.6b": Size(24, 1024, 8, 640, 2, 128, 256),
}


class SizeName(StrEnum):
    """A key of `SIZES`, on the command line."""

    MEDIUM = "115m"
    LARGE = "0.6b"


class RuntimeName(StrEnum):
    """A runtime of the bundled backend; `python -m export` alone builds TensorRT engines."""

    ONNXRUNTIME = "onnxruntime"
    TORCH = "torch"


class ModeName(StrEnum):
    """The kind of audio that the model recognizes."""

    STREAMING = "streaming"
    OFFLINE = "offline"


class LayoutName(StrEnum):
    """One of `export.options.LAYOUTS`."""

    STAGES = "stages"
    FUSED = "fused"


def random_checkpoint(name: str, speech: SpeechPieces = LIVE, seed: int = 0) -> Checkpoint:
    """Return a checkpoint of the size `name`; the same seed gives the same weights."""
    import transformers

    size = SIZES[name]
    torch.manual_seed(seed)
    features = transformers.NemotronAsrStreamingFeatureExtractor(feature_size=size.num_mel_bins)
    encoder = transformers.NemotronAsrStreamingEncoderConfig(
        hidden_size=size.hidden_size,
        num_hidden_layers=size.num_hidden_layers,
        num_attention_heads=size.num_attention_heads,
        intermediate_size=4 * size.hidden_size,
        subsampling_conv_channels=size.subsampling_conv_channels,
        num_mel_bins=size.num_mel_bins,
        sliding_window=71,
    )
    config = transformers.NemotronAsrStreamingConfig(
        vocab_size=VOCABULARY + 1,
        blank_token_id=VOCABULARY,
        decoder_hidden_size=size.decoder_hidden_size,
        num_decoder_layers=size.num_decoder_layers,
        # Enough for fast speech; with a trained model's limit of ten, all ten would be emitted.
        max_symbols_per_step=2,
        encoder_config=encoder,
    )
    model: Any = transformers.NemotronAsrStreamingForRNNT(config).eval()
    processor = transformers.NemotronAsrStreamingProcessor(
        feature_extractor=features,
        tokenizer=_tokenizer(),
        supported_num_lookahead_tokens=[ms // 80 - 1 for ms in reversed(SUPPORTED_CHUNK_MS)],
    )
    _set_token_rate(model, features, speech)
    return Checkpoint(f"random-{name}", model, processor, f"random weights, seed {seed}")


@torch.no_grad()
def _set_token_rate(model: Any, features: Any, speech: SpeechPieces) -> None:
    """Set weights with which real speech yields the wanted rate of tokens, spread over the chunks.

    A token is emitted when the encoder's frames come close to its embedding, which equals its row
    of the head, but not again at once: the predictor outputs a decaying sum of the emitted tokens,
    which is subtracted from the frame. So tokens are emitted one by one as the frames change. The
    logit of blank grows with the magnitude of the frame: half of the joint network's units are
    rectified and provide that magnitude, the others are not rectified and provide the tokens. Plain
    random weights would emit ten tokens in one frame, or none for minutes.
    """
    frames = _encode(model, features, speech)[:, speech.skipped_frames :].flatten(0, 1)
    _normalize_projection(model.encoder_projector, frames)
    head, projector = model.joint.head, model.decoder.decoder_projector
    token_units = head.in_features // 2
    rows = torch.randn(VOCABULARY, token_units)
    # Make the rows orthogonal to the constant that keeps these units from being rectified.
    rows -= rows.mean(dim=1, keepdim=True)
    rows /= rows.norm(dim=1, keepdim=True)
    for table in (head.weight, model.decoder.embedding.weight):
        table.zero_()[:VOCABULARY, :token_units] = rows
    head.bias.zero_()
    _sum_inputs(model.decoder.lstm)
    projector.weight.copy_(-INHIBITION * torch.eye(projector.in_features))
    projector.bias.zero_()
    # Cut into pieces that are decoded as a batch.
    pieces = frames.split(SEARCH_FRAMES)
    encoded = model.encoder_projector(torch.stack(pieces[:-1]))
    _set_blank_weight(model, encoded, speech.tokens_per_second)


def _encode(model: Any, features: Any, speech: SpeechPieces) -> torch.Tensor:
    """Return the encoder frames [pieces, T, hidden] of pieces of continuous real speech."""
    samples = np.concatenate([recording.samples for recording in load_recordings()])
    length = int(SAMPLE_RATE_HZ * speech.length_s)
    starts = np.linspace(0, len(samples) - length, speech.count).astype(int)
    pieces = [samples[start : start + length] for start in starts]
    inputs = features(pieces, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").input_features
    return model.encoder(inputs, num_lookahead_tokens=speech.lookahead_frames).last_hidden_state


def _normalize_projection(projector: Any, frames: torch.Tensor) -> None:
    """Scale the projection of frames [N, hidden] to unit variance; lift half of the units above."""
    projected = frames @ projector.weight.T
    scale = 1 / projected.std(dim=0)
    projector.weight.mul_(scale[:, None])
    projector.bias.copy_(-projected.mean(dim=0) * scale)
    projector.bias[: len(scale) // 2] += UNRECTIFIED


def _sum_inputs(lstm: Any) -> None:
    """Let layer 0 output a decaying sum of its inputs, and the other layers pass it on."""
    size = lstm.hidden_size
    for layer in range(lstm.num_layers):
        weights = getattr(lstm, f"weight_ih_l{layer}").zero_()
        weights[2 * size : 3 * size] = torch.eye(size)
        getattr(lstm, f"weight_hh_l{layer}").zero_()
        getattr(lstm, f"bias_hh_l{layer}").zero_()
        kept = FADING if layer == 0 else 1e-4
        gates = torch.tensor([OPEN, math.log(kept / (1 - kept)), 0.0, OPEN])
        getattr(lstm, f"bias_ih_l{layer}").copy_(gates.repeat_interleave(size))


def _set_blank_weight(model: Any, encoded: torch.Tensor, wanted: float) -> None:
    """Find the weight by bisection until the rate of tokens is met."""
    blank = model.joint.head.weight[VOCABULARY]
    magnitude = slice(len(blank) // 2, None)
    low, high = 2.0, 6.0
    for _ in range(12):
        middle = (low + high) / 2
        blank[magnitude] = middle / (RECTIFIED_MEAN * len(blank[magnitude]))
        rate = tokens_per_second(model, encoded)
        if abs(rate - wanted) < TOLERANCE:
            return
        low, high = (middle, high) if rate > wanted else (low, middle)


def tokens_per_second(model: Any, encoded: torch.Tensor) -> float:
    """Return the tokens per second of greedy decoding of encoder frames [B, E, D]."""
    batch, frames, _ = encoded.shape
    decoder = Decoder(model, frames)
    pool = torch.zeros(batch, decoder.layout.width)
    state = PooledState(pool, torch.arange(batch), decoder.layout)
    lengths = torch.full((batch, 1), frames, dtype=torch.int32)
    inputs, predictor = decoder.begin(encoded, lengths, state=state)
    loop_state = decoder.before_loop(encoded, inputs.length, predictor)
    # A plain Python loop, because torch would compile its own anew for each decoder.
    while bool((loop_state[0] < inputs.length).any()):
        loop_state = decoder.advance(encoded, inputs.length, loop_state)
    *_, counts = loop_state
    return float(counts.sum()) / (batch * frames * FRAME_SAMPLES / SAMPLE_RATE_HZ)


def _tokenizer() -> Any:
    """Return a tokenizer of made-up pieces, of which every third starts a word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    pieces = {"<unk>": 0}
    for index in range(1, VOCABULARY):
        word = "".join(letters[[index % 26, index // 26 % 26, index // 676]])
        pieces[("▁" if index % 3 == 0 else "") + word] = index
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": ["<blank>"]})
    return fast


def main(
    size: Annotated[SizeName, typer.Argument(help="Size of the model.")],
    mode: Annotated[
        ModeName, typer.Option(help="Live streams, or whole files.")
    ] = ModeName.STREAMING,
    chunk_ms: Annotated[int, typer.Option(help="Audio per step.")] = 560,
    runtime: Annotated[
        RuntimeName, typer.Option(help="Runtime that serves it.")
    ] = RuntimeName.TORCH,
    precision: Annotated[str, typer.Option(help="fp32; with torch fp16 and bf16.")] = "fp16",
    layout: Annotated[
        LayoutName, typer.Option(help="For live streams: one model per stage, or one for all.")
    ] = LayoutName.FUSED,
    repository: Annotated[Path, typer.Option(help="Model repository to write.")] = Path(
        "build/random"
    ),
    max_streams: Annotated[int, typer.Option(min=1, help="Live streams in total.")] = 1024,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Streams in one batch.")] = 64,
    instances: Annotated[int, typer.Option(min=1, help="Processes of the recognizer.")] = 1,
    own_engines: Annotated[
        bool, typer.Option("--own-engines", help="For live streams: an engine for each process.")
    ] = False,
) -> None:
    """Build a model of the given size with random weights, and export it without a comparison."""
    began = time.monotonic()

    def report(step: str) -> None:
        _console.print(f"  {time.monotonic() - began:5.1f} s  {step}")

    try:
        options = ExportOptions(
            checkpoint=f"random-{size.value}",
            repository=repository,
            mode=mode.value,
            chunk_ms=chunk_ms,
            runtime=runtime.value,
            precision=precision,
            layout=layout.value if mode is ModeName.STREAMING else None,
            serving=Serving(
                max_streams=max_streams,
                max_batch_size=max_batch_size,
                encoder_instances=instances,
                own_engines=own_engines,
            ),
            offline_serving=offline_serving(runtime.value, instances),
            compare=False,
        )
        report(f"making a random model of {size.value}")
        checkpoint = random_checkpoint(size.value, LIVE if mode is ModeName.STREAMING else FILES)
        report(f"{checkpoint.parameters / 1e6:.0f}M parameters")
        with replacing(repository) as new:
            export = export_streaming if mode is ModeName.STREAMING else export_offline
            export(checkpoint, options, new, report)
        report(f"installed in {repository}")
    except ExportError as error:
        _console.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
