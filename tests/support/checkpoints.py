"""Small random checkpoints with the architecture of the real ones, for tests.

Their weights are scaled so that they emit a few tokens per second of any audio: parity of tokens
means something only where there are tokens.
"""

from __future__ import annotations

from pathlib import Path

import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    NemotronAsrStreamingConfig,
    NemotronAsrStreamingEncoderConfig,
    NemotronAsrStreamingFeatureExtractor,
    NemotronAsrStreamingForRNNT,
    NemotronAsrStreamingProcessor,
    PreTrainedTokenizerFast,
)

VOCABULARY = 64
BLANK_BIAS = 3.0
SPEECH = Path(__file__).parents[2] / "recordings" / "jfk" / "jfk.flac"


def write_random_checkpoint(
    folder: Path, seed: int = 0, blank_bias: float = BLANK_BIAS, encoder_layers: int = 2
) -> Path:
    """Save a small random streaming transducer that `python -m export` takes."""
    torch.manual_seed(seed)
    encoder = NemotronAsrStreamingEncoderConfig(
        hidden_size=48,
        num_hidden_layers=encoder_layers,
        num_attention_heads=4,
        intermediate_size=96,
        subsampling_conv_channels=8,
        num_mel_bins=80,
    )
    config = NemotronAsrStreamingConfig(
        vocab_size=VOCABULARY + 1,
        blank_token_id=VOCABULARY,
        decoder_hidden_size=32,
        num_decoder_layers=2,
        max_symbols_per_step=3,
        encoder_config=encoder,
    )
    model = NemotronAsrStreamingForRNNT(config).eval()
    model.generation_config.decoder_start_token_id = VOCABULARY
    _make_it_emit_tokens(model, blank_bias)
    model.save_pretrained(folder)
    _processor().save_pretrained(folder)
    return folder


@torch.no_grad()
def _make_it_emit_tokens(model: NemotronAsrStreamingForRNNT, blank_bias: float) -> None:
    """Spread the logits, so that tokens depend on the audio and on the tokens before."""
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.mul_(3)
    encoder, projector = model.encoder, model.encoder_projector
    speech, rate_hz = soundfile.read(SPEECH, dtype="float32")
    features = NemotronAsrStreamingFeatureExtractor()(
        speech, sampling_rate=rate_hz, return_tensors="pt"
    )
    encoded = encoder(features.input_features, num_lookahead_tokens=3).last_hidden_state
    projected = projector(encoded)[0]
    scale = 1 / projected.std(dim=0)
    projector.bias.sub_(projected.mean(dim=0)).mul_(scale)
    projector.weight.mul_(scale[:, None])
    model.decoder.embedding.weight.mul_(10)
    model.joint.head.weight.mul_(10)
    model.joint.head.bias[VOCABULARY] += blank_bias


def small_tokenizer() -> Tokenizer:
    """Words of one or two letters, with ids up to that of the blank."""
    letters = [chr(ord("a") + index % 26) * (1 + index // 26) for index in range(VOCABULARY - 1)]
    pieces = {"<unk>": 0}
    for index, letter in enumerate(letters):
        pieces[("▁" if index % 3 == 0 else "") + letter] = index + 1
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _processor() -> NemotronAsrStreamingProcessor:
    fast = PreTrainedTokenizerFast(tokenizer_object=small_tokenizer(), unk_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": ["<blank>"]})
    return NemotronAsrStreamingProcessor(
        feature_extractor=NemotronAsrStreamingFeatureExtractor(),
        tokenizer=fast,
        supported_num_lookahead_tokens=[13, 6, 3, 1, 0],
    )
