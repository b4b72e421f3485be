"""Stages of the toy repository without Triton around them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from server.backends.earshot.earshot_runtime.chunks import Chunks
from server.backends.earshot.earshot_runtime.engines import open_engine
from server.backends.earshot.earshot_runtime.sequences import SequenceStage
from server.backends.earshot.earshot_runtime.spec import StageSpec
from tests.support.toy_repository import CHUNK_SAMPLES

# The generated protobuf classes carry no types.
_pb: Any = model_config_pb2


def model_config(repository: Path, model: str) -> dict[str, Any]:
    """A model's config as Triton hands it to a backend."""
    text = (repository / model / "config.pbtxt").read_text()
    config = text_format.Parse(text, _pb.ModelConfig())
    return json_format.MessageToDict(config, preserving_proto_field_name=True)


def sequence_stage(repository: Path, model: str = "summer") -> SequenceStage:
    """A stage with state."""
    spec = StageSpec.from_model_config(model_config(repository, model))
    return SequenceStage(spec, open_engine(repository / model / "1", spec))


def summer_chunks(
    *entries: tuple[int, float],
    flags: str = "",
    length: int = CHUNK_SAMPLES,
    adapters: Sequence[str] = (),
) -> Chunks:
    """Chunks of (stream, value of every sample) for `summer`.

    `flags` has a character per entry: S for START, E for END, B for both, C for a canary, which has
    both, anything else for none.
    """
    flags = flags.ljust(len(entries), "-")
    return Chunks(
        streams=[stream for stream, _ in entries],
        starts=[flag in "SBC" for flag in flags],
        ends=[flag in "EBC" for flag in flags],
        inputs=[
            [np.full((1, CHUNK_SAMPLES), value, np.float32) for _, value in entries],
            [np.array([[length]], np.int32) for _ in entries],
        ],
        adapters=list(adapters) or [""] * len(entries),
        canaries=[flag == "C" for flag in flags],
    )
