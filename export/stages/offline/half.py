"""Convert stages for whole utterances to half precision, for torch; see `export.stages.half`."""

from __future__ import annotations

from torch import nn

from export.stages.half import DTYPES, to_half
from export.stages.offline.decoder import CtcDecoder, TransducerDecoder
from export.stages.offline.encoder import OfflineEncoder
from export.stages.offline.feature_extractor import OfflineFeatureExtractor

Stages = tuple[OfflineFeatureExtractor, OfflineEncoder, CtcDecoder | TransducerDecoder]


def half_stages(stages: Stages, precision: str) -> Stages:
    """Return copies of `stages` in `precision`; the head of CTC stays float32, like all logits."""
    feature_extractor, encoder, decoder = stages
    _, dtype = DTYPES[precision]
    encoder = to_half(encoder, dtype)
    if isinstance(decoder, TransducerDecoder):
        start = decoder.start
        decoder = to_half(decoder, dtype)
        decoder.start = nn.Buffer(start.clone())
    return feature_extractor, encoder, decoder
