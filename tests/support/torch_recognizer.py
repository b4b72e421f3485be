"""A fused recognizer exported for torch, and the stages to compare it with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import export.spec
from export.checkpoint import load_checkpoint
from export.formats.torch_file import export_torch
from export.options import ExportOptions, Serving
from export.spec import ADAPTED
from export.stages.half import half_stages
from export.stages.state import PooledStages
from export.streaming.export import build_stages, spec_of
from export.streaming.spec import StreamingSpec
from server.backends.earshot.earshot_runtime.spec import (
    AdapterSpec,
    SequenceSpec,
    StageSpec,
    TensorSpec,
)
from tests.support.checkpoints import write_random_checkpoint
from tests.support.project import ADAPTER_RANK

CHUNK_MS, FRAMES = 320, 4
STREAMS = 12


class Recognizer:
    """The fused stages of a checkpoint that emits as many tokens as it may, and their export."""

    def __init__(self, folder: Path, precision: str = "fp32", adapters: int = 0) -> None:
        checkpoint = load_checkpoint(str(write_random_checkpoint(folder / "c", blank_bias=-4.0)))
        options = ExportOptions(
            checkpoint.name,
            chunk_ms=CHUNK_MS,
            runtime="torch",
            precision=precision,
            layout="fused",
            serving=Serving(
                max_streams=STREAMS, max_batch_size=10, adapters=adapters, adapter_rank=ADAPTER_RANK
            ),
        )
        self.stages = half_stages(build_stages(checkpoint, FRAMES), precision)
        self.spec: StreamingSpec = spec_of(checkpoint, self.stages, options)
        self.folder = folder / "recognizer"
        self.adapters = adapters
        export_torch(self.stages, self.spec.recognizer, self.folder, precision)
        if adapters:
            adapted = self.folder / ADAPTED
            export_torch(self.stages, self.spec.recognizer, adapted, precision, ADAPTER_RANK)

    @property
    def backend_spec(self) -> StageSpec:
        recognizer = self.spec.recognizer
        return StageSpec(
            model="recognizer",
            max_batch=10,
            inputs=tuple(map(_tensor, recognizer.inputs)),
            outputs=tuple(map(_tensor, recognizer.outputs)),
            runtime="torch",
            device="cpu",
            intra_op_threads=1,
            bounded_inputs=(),
            max_abs=float("inf"),
            length_input=None,
            length_of=None,
            lengths=(),
            length_output=None,
            max_length=None,
            length_step=1,
            sequence=SequenceSpec(STREAMS, (), 10.0),
            adapters=self._adapter_spec,
        )

    @property
    def _adapter_spec(self) -> AdapterSpec | None:
        layouts = self.spec.recognizer.adapters
        shapes = tuple((layout.rows, layout.width) for layout in layouts.values())
        return AdapterSpec(self.adapters, tuple(layouts), shapes, "", "") if layouts else None

    def expected(
        self, audio: np.ndarray, lengths: np.ndarray, adapters: Sequence[Tensor] = ()
    ) -> list[list[np.ndarray]]:
        """Return the stages' own outputs for each chunk [K, B, C], in one batch.

        Args:
            adapters: pools of adapters, and the slots of the streams' adapters there.
        """
        batch = audio.shape[1]
        stages = PooledStages(self.stages, ADAPTER_RANK if adapters else 0).eval()
        pools = [torch.zeros(batch * s.layout.rows, s.layout.width) for s in self.stages]
        slots = torch.arange(batch)
        answers: list[list[np.ndarray]] = []
        for chunk, length in zip(audio, lengths, strict=True):
            with torch.inference_mode():
                inputs = torch.tensor(chunk), torch.tensor(length[:, None])
                results = stages(*inputs, *pools, slots, *adapters)
            outputs, updates = results[:5], results[5:]
            for pool, stage, values, rows in zip(
                pools, self.stages, updates[::2], updates[1::2], strict=True
            ):
                pool[slots[:, None] * stage.layout.rows + rows] = values
            answers.append([output.numpy() for output in outputs])
        return answers


def _tensor(tensor: export.spec.TensorSpec) -> TensorSpec:
    dtype = {"FP32": np.float32, "INT32": np.int32}[tensor.dtype]
    return TensorSpec(tensor.name, np.dtype(dtype), tensor.dims)
