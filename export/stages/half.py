"""Convert stages to half precision, with a fixed type for every tensor, for TensorRT and torch.

TensorRT 11 takes the type of every tensor from the graph, so precision is decided here: the weights
of encoder and decoder become half, and their code converts explicitly where values stay float32
(see `encoder.py` and `decoder.py`). The feature extractor is always float32: the range of log-mel
is too large for half, and the stage costs little.

The encoder's state has the precision of its keys and values, which are nearly all of it, so nothing
is lost and a stream takes half the memory. Its two counters stay below the number of ring blocks,
which half precision represents exactly. The other states are small, contain counts that grow with
the stream, and are float32.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from export.errors import UnsupportedOption
from export.stages.decoder import Decoder
from export.stages.encoder import Encoder
from export.stages.feature_extractor import FeatureExtractor

Stages = tuple[FeatureExtractor, Encoder, Decoder]
AnyModule = TypeVar("AnyModule", bound=nn.Module)

DTYPES = {
    "fp32": ("FP32", torch.float32),
    "fp16": ("FP16", torch.float16),
    "bf16": ("BF16", torch.bfloat16),
    # Everything that is not quantized to fp8 is fp16.
    "fp8": ("FP16", torch.float16),
}
_EXACT_INTEGERS = {"FP32": 2**24, "FP16": 2**11, "BF16": 2**8}


def half_stages(stages: Stages, precision: str) -> Stages:
    """Return copies of `stages` in `precision`, which share no weights with the originals.

    Raises:
        UnsupportedOption: the ring has more blocks than the precision can count exactly.
    """
    name, dtype = DTYPES[precision]
    feature_extractor, encoder, decoder = stages
    if encoder.dims.ring_blocks > _EXACT_INTEGERS[name]:
        raise UnsupportedOption(
            f"{precision} counts to {_EXACT_INTEGERS[name]} and the ring has "
            f"{encoder.dims.ring_blocks} blocks; choose another --precision or a longer chunk"
        )
    encoder = to_half(encoder, dtype)
    encoder.layout = replace(encoder.layout, dtype=name)
    return feature_extractor, encoder, _half_decoder(decoder, dtype)


def to_half(stage: AnyModule, dtype: torch.dtype) -> AnyModule:
    """Return a copy with weights of `dtype`; normalization keeps its float32 weights."""
    half = copy.deepcopy(stage).to(dtype)
    originals = dict(stage.named_modules())
    for name, module in half.named_modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
            module.float().load_state_dict(originals[name].state_dict())
    return half


def _half_decoder(decoder: Decoder, dtype: torch.dtype) -> Decoder:
    half = to_half(decoder, dtype)
    half.start = nn.Buffer(decoder.start.clone())
    return half
