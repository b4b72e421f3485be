"""Write a recognizer of whole utterances to programs of `torch.export`, and run them on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import Dim

from export.audio import HOP_SAMPLES, SAMPLE_RATE_HZ, SUBSAMPLING
from export.formats.onnx_file import silenced
from export.formats.packed_adapters import Parts, pools_of
from export.formats.parts import (
    BATCH,
    END,
    FORMAT,
    MODEL,
    ROUNDS_PART,
    Part,
    adapter_arguments,
    pool_entry,
    tensor_entry,
)
from export.formats.torch_file import SUFFIX, save_part
from export.spec import ADAPTED, StageSpec
from export.stages.offline.decoder import CtcDecoder
from export.stages.offline.fused_encoder import FusedOfflineEncoder
from export.stages.offline.half import Stages
from export.stages.offline.looped import (
    AfterLoop,
    BeforeLoop,
    CtcRecognizer,
    LoopState,
    Rounds,
)

_EXAMPLE_HOPS = 13 * SUBSAMPLING


def export_utterance_program(
    stages: Stages,
    spec: StageSpec,
    folder: Path,
    precision: str,
    max_mel_frames: int,
    adapter_rank: int = 0,
) -> None:
    """Write `stages`, run one after the other, as the model `spec` into `folder`.

    MODEL takes AUDIO and AUDIO_LENGTH. For CTC it is the only part and returns the outputs of
    `spec`. The loop of a transducer is split off, see `export.stages.offline.looped`.

    Args:
        precision: the precision of `stages`, for the description.
        max_mel_frames: number of mel frames of the longest utterance.
        adapter_rank: if not 0, MODEL also takes the pools of adapters of this rank, and the slots
            of the utterances' adapters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = utterance_parts(stages, max_mel_frames, adapter_rank)
    plans = [stage.adapter_plan(adapter_rank) for stage in stages]
    description = {
        "format": FORMAT,
        "precision": precision,
        "inputs": [tensor_entry(tensor) for tensor in spec.inputs],
        "outputs": [tensor_entry(tensor) for tensor in spec.outputs],
        "pools": [],
        "adapter_pools": [pool_entry(plan.layout) for plan in plans if plan],
        # Runs of ROUNDS_PART for the longest utterance before the first check for the end: one per
        # second of its audio.
        "runs_of_rounds": max_mel_frames * HOP_SAMPLES // SAMPLE_RATE_HZ if len(parts) > 1 else 0,
    }
    with silenced():
        for part in parts:
            save_part(part, folder, description if part.name == MODEL else {})


def utterance_parts(stages: Stages, max_mel_frames: int, adapter_rank: int = 0) -> list[Part]:
    """Return the parts of `stages`; see `export_utterance_program`."""
    feature_extractor, encoder, decoder = stages
    fused = FusedOfflineEncoder(encoder)
    length = HOP_SAMPLES * _EXAMPLE_HOPS
    adapters = adapter_arguments([stage.adapter_plan(adapter_rank) for stage in (encoder, decoder)])
    arguments = (
        torch.ones(2, length),
        torch.full((2, 1), length, dtype=torch.int32),
        *(argument for argument, _ in adapters),
    )
    axes = (BATCH, BATCH, *(axis for _, axis in adapters))
    samples = HOP_SAMPLES * Dim("hops", min=2, max=max_mel_frames)
    free = (samples, *(None,) * (len(axes) - 1))
    if isinstance(decoder, CtcDecoder):
        recognizer = CtcRecognizer(feature_extractor, fused, decoder, adapter_rank)
        return [Part(MODEL, recognizer.eval(), arguments, axes, free)]
    opening = BeforeLoop(feature_extractor, fused, decoder, adapter_rank).eval()
    with torch.no_grad():
        values = opening(*arguments)
    frames = Dim("frames", min=2, max=max_mel_frames)
    free_values = _free_axes(len(values), frames, decoder.max_symbols * frames + 1)
    batched = (BATCH,) * len(values)
    return [
        Part(MODEL, opening, arguments, axes, free),
        Part(ROUNDS_PART, Rounds(decoder).eval(), values, batched, free_values),
        Part(END, AfterLoop().eval(), values, batched, free_values),
    ]


def _free_axes(values: int, frames: Any, columns: Any) -> tuple[Any, ...]:
    """Return the free second axis of each output of `BeforeLoop`, or None."""
    of_state: dict[str, Any] = dict.fromkeys(("tokens", "token_frames", "logprobs"), columns)
    state = [of_state.get(name) for name in LoopState._fields]
    return (frames, *(None,) * (values - len(state) - 1), *state)


def open_utterance_program(
    path: Path, spec: StageSpec, pools: Parts | None = None
) -> Callable[..., list[NDArray[Any]]]:
    """Open the programs in the folder of `path`, the file of the other runtimes.

    Args:
        pools: pools of adapters to run the program with; the last input is then the slot of each
            utterance's adapter.
    """
    folder = path.parent if pools is None else path.parent / ADAPTED
    model = _load(folder, MODEL)
    has_loop = _file(folder, END).exists()
    loop = (_load(folder, ROUNDS_PART), _load(folder, END)) if has_loop else None
    return _function(model, loop, [] if pools is None else pools_of(spec, pools))


def open_utterance_parts(stages: Stages, max_mel_frames: int) -> Callable[..., list[NDArray[Any]]]:
    """Return `stages`, in the form that is written, as a function `(*inputs) -> outputs`."""
    model, *loop = (part.module for part in utterance_parts(stages, max_mel_frames))
    return _function(model, tuple(loop) or None, [])


def _function(
    model: Any, loop: Any, adapters: Sequence[torch.Tensor]
) -> Callable[..., list[NDArray[Any]]]:
    @torch.inference_mode()
    def run(*inputs: NDArray[Any]) -> list[NDArray[Any]]:
        rows = len(inputs[0])
        # Pad as the backend does, because programs are traced for two rows or more.
        audio, length, *slots = (
            torch.from_numpy(np.resize(x, (max(2, rows), *x.shape[1:]))) for x in inputs
        )
        values = model(audio, length, *adapters, *slots)
        if loop is not None:
            rounds, end = loop
            pending: Any = True
            while pending:
                *loop_state, pending = rounds(*values)
                values = (*values[: -len(loop_state)], *loop_state)
            values = end(*values)
        return [value[:rows].numpy() for value in values]

    return run


def _file(folder: Path, part: str) -> Path:
    return folder / f"{part}{SUFFIX}"


def _load(folder: Path, part: str) -> Any:
    return torch.export.load(_file(folder, part)).module()
