"""Small random checkpoints of the Parakeet kinds, which recognize whole utterances.

As in `checkpoints.py` their weights are scaled so that they emit tokens; the statistics of their
batch norms are random too, so that folding them away shows in the result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import soundfile
import torch
from transformers import (
    ParakeetCTCConfig,
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    ParakeetForRNNT,
    ParakeetForTDT,
    ParakeetProcessor,
    ParakeetRNNTConfig,
    ParakeetTDTConfig,
    ParakeetTokenizer,
)

from tests.support.checkpoints import SPEECH, VOCABULARY, small_tokenizer

BLANK = VOCABULARY
DURATIONS = (0, 1, 2, 3, 4)
KINDS = ("ctc", "rnnt", "tdt")
CHANNELS = 8
MEL_BINS = {"ctc": 80, "rnnt": 80, "tdt": 128}
BLANK_BIAS = {"ctc": 12.0, "rnnt": 6.0, "tdt": 0.0}
NO_DURATION_BIAS = -3.0
"""A random TDT model would often emit tokens of no duration for ever."""


def write_parakeet_checkpoint(folder: Path, kind: str, seed: int = 0) -> Path:
    """Save a random two-layer recognizer of one of ``KINDS`` that `python -m export` takes."""
    torch.manual_seed(seed)
    encoder = ParakeetEncoderConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        subsampling_conv_channels=CHANNELS,
        num_mel_bins=MEL_BINS[kind],
        # Published checkpoints come with and without them.
        attention_bias=kind == "ctc",
        convolution_bias=kind == "ctc",
        scale_input=kind == "ctc",
    )
    model = _model(kind, encoder).eval()
    processor = _processor(kind)
    _scale(model, processor.feature_extractor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _model(kind: str, encoder: ParakeetEncoderConfig) -> Any:
    if kind == "ctc":
        config = ParakeetCTCConfig(
            vocab_size=VOCABULARY + 1, pad_token_id=BLANK, encoder_config=encoder
        )
        return ParakeetForCTC(config)
    sizes = {
        "vocab_size": VOCABULARY + 1,
        "blank_token_id": BLANK,
        "pad_token_id": 0,
        "decoder_hidden_size": 32,
        "num_decoder_layers": 2,
        "max_symbols_per_step": 3,
        "encoder_config": encoder,
    }
    if kind == "rnnt":
        model = ParakeetForRNNT(ParakeetRNNTConfig(**sizes))
    else:
        model = ParakeetForTDT(ParakeetTDTConfig(**sizes, durations=list(DURATIONS)))
        durations = range(VOCABULARY + 1, VOCABULARY + 1 + len(DURATIONS))
        model.generation_config.suppress_tokens = list(durations)
    model.generation_config.decoder_start_token_id = BLANK
    return model


@torch.no_grad()
def _scale(model: Any, feature_extractor: ParakeetFeatureExtractor) -> None:
    """Spread the logits, so that tokens depend on the audio and on the tokens before."""
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and "o_proj" not in name:
            # Much of the front, little of the attention: in a random one all moments are alike.
            weight.mul_(6 if "subsampling" in name else 3)
        elif name.endswith("bias"):
            weight.normal_(std=0.1)
        elif weight.dim() == 1:
            weight.uniform_(0.7, 1.4)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    _ignore_high_bins(model.encoder.subsampling)
    encoded = _hidden(model, feature_extractor)
    mean, deviation = encoded.mean(dim=0), encoded.std(dim=0)
    if isinstance(model, ParakeetForCTC):
        head: Any = model.ctc_head
        head.weight.normal_().div_(deviation[:, None])
        head.bias.copy_(-(head.weight[:, :, 0] @ mean))
        head.bias[BLANK] += BLANK_BIAS["ctc"]
        return
    projector = model.encoder_projector
    projector.weight.normal_().div_(7 * deviation)
    projector.bias.copy_(-(projector.weight @ mean))
    model.decoder.embedding.weight.mul_(10)
    head = model.joint.head
    head.weight.mul_(10)
    if isinstance(model, ParakeetForTDT):
        head.bias[BLANK] += BLANK_BIAS["tdt"]
        head.bias[VOCABULARY + 1] += NO_DURATION_BIAS
    else:
        head.bias[BLANK] += BLANK_BIAS["rnnt"]


def _ignore_high_bins(subsampling: Any) -> None:
    """Ignore what is above 3.5 kHz, like a telephone.

    Above that MP3 and telephone recordings are silent but for rounding. Normalization makes that as
    loud as speech and float32 transforms differ in it, so that a random model, in which every
    bin has the same weight, would sometimes emit other tokens for it.
    """
    linear = subsampling.linear
    by_bin = linear.weight.unflatten(1, (CHANNELS, -1))
    by_bin[:, :, by_bin.shape[2] * 7 // 10 :] = 0


def _hidden(model: Any, feature_extractor: ParakeetFeatureExtractor) -> torch.Tensor:
    speech, rate_hz = soundfile.read(SPEECH, dtype="float32")
    features = feature_extractor(speech, sampling_rate=rate_hz, return_tensors="pt")
    return model.encoder(**features).last_hidden_state[0]


def _processor(kind: str) -> ParakeetProcessor:
    blank = {"pad_token": "<blank>"} if kind == "ctc" else {"pad_token": "<unk>"}
    fast = ParakeetTokenizer(tokenizer_object=small_tokenizer(), unk_token="<unk>", **blank)
    fast.add_special_tokens({"additional_special_tokens": ["<blank>"]})
    return ParakeetProcessor(ParakeetFeatureExtractor(MEL_BINS[kind]), fast, decoder_type=kind)
