"""Load the base checkpoint, and insert low-rank adapters into it.

The adapter changes only matrices: the projections of attention and feed-forward layers of the
encoder, the projections of encoder and predictor into the joint network, and its head. So a graph
that serves many customers can hold the base once, and two thin matrices per projection and
customer.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import (
    AutoProcessor,
    NemotronAsrStreamingForRNNT,
    NemotronAsrStreamingProcessor,
    PreTrainedConfig,
)

from training.adapt.errors import CannotAdapt
from training.features import MEL_BINS

ARCHITECTURE = "NemotronAsrStreamingForRNNT"
ADAPTED = (
    r".*\.self_attn\.[qkvo]_proj|.*\.feed_forward[12]\.linear[12]"
    r"|encoder_projector|decoder\.decoder_projector|joint\.head"
)
"""Names of the adapted linear layers, as a regular expression."""


@dataclass(frozen=True)
class Base:
    """A loaded checkpoint, in float32 and evaluation mode, and its processor."""

    model: NemotronAsrStreamingForRNNT
    processor: NemotronAsrStreamingProcessor

    @property
    def tokenizer(self) -> Any:
        """Return the tokenizer, a `ParakeetTokenizer`."""
        return cast(Any, self.processor).tokenizer

    @property
    def lookahead(self) -> int:
        """Return the lookahead that the checkpoint recommends."""
        return cast(Any, self.model.config.encoder_config).default_num_lookahead_tokens


def load_base(checkpoint: Path) -> Base:
    """Load a checkpoint whose features and architecture this trainer supports.

    Raises:
        CannotAdapt: it is missing, incomplete, or not supported.
    """
    if not (checkpoint / "model.safetensors").is_file():
        raise CannotAdapt(
            f"expected a folder with config.json and model.safetensors, got {checkpoint}"
        )
    try:
        config = PreTrainedConfig.get_config_dict(checkpoint)[0]
        architecture, *_ = config.get("architectures") or ["none"]
        if architecture != ARCHITECTURE:
            raise CannotAdapt(f"expected a {ARCHITECTURE} in {checkpoint}, got {architecture}")
        bins = config["encoder_config"]["num_mel_bins"]
        if bins != MEL_BINS:
            raise CannotAdapt(
                f"expected a checkpoint with {MEL_BINS} mel bins, which the training's features "
                f"have, got {bins} in {checkpoint}"
            )
        model = NemotronAsrStreamingForRNNT.from_pretrained(checkpoint, dtype=torch.float32)
        processor = AutoProcessor.from_pretrained(checkpoint)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CannotAdapt(f"{checkpoint} cannot be loaded: {error}") from error
    return Base(model.eval(), processor)


def add_adapter(model: NemotronAsrStreamingForRNNT, rank: int, base: Path) -> PeftModel:
    """Freeze `model`, and insert an adapter without effect into its projections."""
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=ADAPTED,
        base_model_name_or_path=str(base),
    )
    return cast(PeftModel, get_peft_model(cast(Any, model), config))


def merged(adapted: PeftModel) -> NemotronAsrStreamingForRNNT:
    """Return the model with the adapter added to its weights; `adapted` must not be used again."""
    return cast(Any, adapted).merge_and_unload()
