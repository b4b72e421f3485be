"""Write a recognizer of whole utterances to programs of `torch.export`, and run them on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from export.audio import HOP_SAMPLES, SAMPLE_RATE_HZ, SUBSAMPLING
from export.formats.onnx_file import silenced
from export.formats.parts import BATCH, END, FORMAT, MODEL, ROUNDS_PART, Part, tensor_entry
from export.formats.torch_file import SUFFIX, save_part
from export.spec import StageSpec
from export.stages.half import DTYPES, to_half
from export.stages.offline.decoder import CtcDecoder, TransducerDecoder
from export.stages.offline.encoder import OfflineEncoder
from export.stages.offline.feature_extractor import OfflineFeatureExtractor
from export.stages.offline.fused_encoder import FusedOfflineEncoder
from export.stages.offline.looped import (
    AfterLoop,
    BeforeLoop,
    CtcRecognizer,
    LoopState,
    Rounds,
)

_EXAMPLE_HOPS = 13 * SUBSAMPLING
_VALUES = ("encoded", "length", *LoopState._fields)
"""Names of the values that the loop works on."""

Stages = tuple[OfflineFeatureExtractor, OfflineEncoder, CtcDecoder | TransducerDecoder]


def export_utterance_program(
    stages: Stages, spec: StageSpec, folder: Path, precision: str, max_mel_frames: int
) -> None:
    """Write `stages`, run in a row, as the model `spec` into `folder`.

    MODEL takes AUDIO and AUDIO_LENGTH. Of CTC it is the only part and returns the outputs of
    `spec`. The loop of a transducer is cut, see `export.stages.offline.looped`.

    Args:
        max_mel_frames: number of mel frames of the longest utterance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = utterance_parts(stages, precision, max_mel_frames)
    description = {
        "format": FORMAT,
        "precision": precision,
        "inputs": [tensor_entry(tensor) for tensor in spec.inputs],
        "outputs": [tensor_entry(tensor) for tensor in spec.outputs],
        "pools": [],
        "adapter_pools": [],
        # Runs of ROUNDS_PART for the longest utterance, before the first check for the end: one
        # for each second of its audio.
        "runs_of_rounds": max_mel_frames * HOP_SAMPLES // SAMPLE_RATE_HZ if len(parts) > 1 else 0,
    }
    with silenced():
        for part in parts:
            save_part(part, folder, description if part.name == MODEL else {})


def utterance_parts(stages: Stages, precision: str, max_mel_frames: int) -> list[Part]:
    """Return the parts of `stages` in `precision`; see `export_utterance_program`."""
    _, dtype = DTYPES[precision]
    feature_extractor, encoder, decoder = stages
    fused = FusedOfflineEncoder(to_half(encoder, dtype))
    hops = Dim("hops", min=2, max=max_mel_frames)
    length = HOP_SAMPLES * _EXAMPLE_HOPS
    arguments = (torch.ones(2, length), torch.full((2, 1), length, dtype=torch.int32))
    if isinstance(decoder, CtcDecoder):
        # Its head stays in float32, as the logits of all decoders.
        modules: list[nn.Module] = [CtcRecognizer(feature_extractor, fused, decoder)]
    else:
        start = decoder.start
        decoder = to_half(decoder, dtype)
        decoder.start = start
        modules = [BeforeLoop(feature_extractor, fused, decoder), Rounds(decoder), AfterLoop()]
    model, *rest = (module.eval() for module in modules)
    first = Part(MODEL, model, arguments, (BATCH, BATCH), (HOP_SAMPLES * hops, None))
    if not rest:
        return [first]
    assert isinstance(decoder, TransducerDecoder)
    with torch.no_grad():
        values: tuple[Tensor, ...] = model(*arguments)
    frames = Dim("frames", min=2, max=max_mel_frames)
    columns = decoder.max_symbols * frames + 1
    free: dict[str, Any] = dict.fromkeys(("tokens", "token_frames", "logprobs"), columns)
    free["encoded"] = frames
    seconds, batched = tuple(map(free.get, _VALUES)), (BATCH,) * len(_VALUES)
    return [
        first,
        *(
            Part(name, module, values, batched, seconds)
            for name, module in zip((ROUNDS_PART, END), rest, strict=True)
        ),
    ]


def open_utterance_program(path: Path, spec: StageSpec) -> Callable[..., list[NDArray[Any]]]:
    """Open the programs that lie where the other runtimes have `path`: `(*inputs) -> outputs`."""
    model = _load(path, MODEL)
    loop = (_load(path, ROUNDS_PART), _load(path, END)) if path_of(path, END).exists() else None

    @torch.inference_mode()
    def run(*inputs: NDArray[Any]) -> list[NDArray[Any]]:
        rows = len(inputs[0])
        # As in the backend: programs are traced for two rows or more.
        values = model(
            *(torch.from_numpy(np.resize(x, (max(2, rows), *x.shape[1:]))) for x in inputs)
        )
        if loop is not None:
            rounds, end = loop
            pending: Any = True
            while pending:
                *loop_state, pending = rounds(*values)
                values = (*values[: -len(loop_state)], *loop_state)
            values = end(*values)
        return [value[:rows].numpy() for value in values]

    return run


def path_of(path: Path, part: str) -> Path:
    """Return the file of a part of the model whose other runtimes have `path`."""
    return path.with_name(f"{part}{SUFFIX}")


def _load(path: Path, part: str) -> Any:
    return torch.export.load(path_of(path, part)).module()
