"""Define the demo model: its size, initial weights, two losses, and checkpoint.

The auxiliary CTC loss has no layer of its own: it uses the joint network with the predictor's
output set to zero. The predictor's projection is zero until the transducer loss begins, so the
transducer starts as the CTC model trained until then, and a checkpoint of `transformers` contains
everything that further training needs.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    NemotronAsrStreamingConfig,
    NemotronAsrStreamingEncoderConfig,
    NemotronAsrStreamingForRNNT,
    NemotronAsrStreamingProcessor,
)
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

from training.fast_encoder import Dropout, encode
from training.features import FRAMES_PER_SECOND, MEL_BINS, extractor
from training.losses import transducer_loss
from training.schedule import CTC_WEIGHT, Objective
from training.text import BLANK_TOKEN, PAD_TOKEN_ID

VOCAB_SIZE = 192
LOOKAHEADS = (13, 6, 3, 1, 0)
DEFAULT_LOOKAHEAD = 6
MEL_MEAN, MEL_DEVIATION = -11.0, 4.0
"""Approximate statistics of log-mel speech, for a first layer that initially normalizes it."""


@dataclass(frozen=True)
class Batch:
    """Padded utterances: mel (B, frames, bins) with counts (B,), labels (B, U) with counts (B,)."""

    mel: Tensor
    mel_counts: Tensor
    labels: Tensor
    label_counts: Tensor

    @property
    def audio_seconds(self) -> float:
        """Return the seconds of speech in the batch, without padding."""
        return float(self.mel_counts.sum()) / FRAMES_PER_SECOND


def config() -> NemotronAsrStreamingConfig:
    """Return a config with 10.4 million parameters; few, wide layers are faster on a CPU."""
    encoder = NemotronAsrStreamingEncoderConfig(
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=1024,
        num_mel_bins=MEL_BINS,
        subsampling_conv_channels=64,
        scale_input=False,
        dropout=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
        layerdrop=0.0,
        default_num_lookahead_tokens=DEFAULT_LOOKAHEAD,
    )
    return NemotronAsrStreamingConfig(
        vocab_size=VOCAB_SIZE,
        pad_token_id=PAD_TOKEN_ID,
        blank_token_id=VOCAB_SIZE - 1,
        decoder_hidden_size=256,
        num_decoder_layers=1,
        max_symbols_per_step=10,
        encoder_config=encoder,
    )


def create_model(seed: int) -> NemotronAsrStreamingForRNNT:
    """Return a model with weights scaled to each layer's inputs and a predictor without effect.

    Every residual branch starts at zero. Otherwise the encoder first learns what all utterances
    have in common, and its normalizations hide the rest: it loses its input before the first
    alignments.
    """
    torch.manual_seed(seed)
    model = NemotronAsrStreamingForRNNT(config())
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            fan_in = module.weight[0].numel()
            gain = 2.0 if isinstance(module, nn.Conv2d) else 1.0
            nn.init.normal_(module.weight, std=(gain / fan_in) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for layer in model.encoder.layers:
        last_of_branches = (
            layer.feed_forward1.linear2,
            layer.self_attn.o_proj,
            layer.conv.pointwise_conv2,
            layer.feed_forward2.linear2,
        )
        for module in last_of_branches:
            nn.init.zeros_(module.weight)
    nn.init.normal_(model.decoder.embedding.weight, std=1.0)
    nn.init.zeros_(model.decoder.decoder_projector.weight)
    _normalize_input(model.encoder.subsampling.conv_in)
    model.generation_config.decoder_start_token_id = model.config.blank_token_id
    return model


@torch.no_grad()
def _normalize_input(stem: nn.Conv2d) -> None:
    stem.weight /= MEL_DEVIATION
    assert stem.bias is not None
    stem.bias -= MEL_MEAN * stem.weight.sum(dim=(1, 2, 3))


@dataclass(frozen=True)
class Losses:
    """Sums over a batch divided by its label count."""

    ctc: Tensor
    transducer: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """Return the loss that training minimizes."""
        if self.transducer is None:
            return self.ctc
        return CTC_WEIGHT * self.ctc + (1 - CTC_WEIGHT) * self.transducer


def losses(
    model: NemotronAsrStreamingForRNNT,
    batch: Batch,
    lookahead: int,
    objective: Objective,
    dropout: Dropout | None = None,
) -> Losses:
    """Compute the losses of `objective`."""
    encoded, counts = encode(model, batch.mel, batch.mel_counts, lookahead, dropout)
    labels_in_all = batch.label_counts.sum()
    logits = joint_logits(model, encoded)
    blank = model.config.blank_token_id
    ctc = functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        batch.labels,
        counts,
        batch.label_counts,
        blank=blank,
        reduction="none",
        zero_infinity=True,
    )
    if objective == "ctc":
        return Losses(ctc=ctc.sum() / labels_in_all)
    history = functional.pad(batch.labels, (1, 0), value=blank)
    predicted = model.decoder(history)
    lattice = joint_logits(model, encoded[:, :, None] + predicted[:, None])
    transducer = transducer_loss(lattice, batch.labels, counts, batch.label_counts, blank)
    return Losses(ctc=ctc.sum() / labels_in_all, transducer=transducer.sum() / labels_in_all)


def joint_logits(model: NemotronAsrStreamingForRNNT, summed: Tensor) -> Tensor:
    """Return logits for encoder plus predictor outputs, or for CTC of encoder outputs alone."""
    return model.joint.head(model.joint.activation(summed))


def create_processor(tokenizer: ParakeetTokenizer) -> NemotronAsrStreamingProcessor:
    """Return a processor with feature extractor, tokenizer and supported lookaheads."""
    return NemotronAsrStreamingProcessor(
        extractor(),
        tokenizer,
        blank_token=BLANK_TOKEN,
        supported_num_lookahead_tokens=list(LOOKAHEADS),
        default_num_lookahead_tokens=DEFAULT_LOOKAHEAD,
    )


def save_checkpoint(
    model: NemotronAsrStreamingForRNNT, tokenizer: ParakeetTokenizer, folder: Path
) -> None:
    """Write a checkpoint with the demo model's processor."""
    write_checkpoint(model, create_processor(tokenizer), folder)


def write_checkpoint(
    model: NemotronAsrStreamingForRNNT, processor: NemotronAsrStreamingProcessor, folder: Path
) -> None:
    """Write a checkpoint with half-precision weights, which load as float32 by default."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    half = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.save_pretrained(partial, state_dict=half)
    processor.save_pretrained(partial)
    config_file = partial / "config.json"
    saved = json.loads(config_file.read_text())
    saved["dtype"] = saved["encoder_config"]["dtype"] = "float32"
    config_file.write_text(json.dumps(saved, indent=2, sort_keys=True) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for file in partial.iterdir():
        file.chmod(0o644)
        os.replace(file, folder / file.name)
    partial.rmdir()
