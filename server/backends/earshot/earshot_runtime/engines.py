"""Choose the engine of a stage by the runtime that its config names."""

from __future__ import annotations

from pathlib import Path

from .engine import Engine
from .errors import BadStage
from .spec import StageSpec
from .utterance_engine import UtteranceEngine


def open_engine(folder: Path, spec: StageSpec) -> Engine:
    """Return the engine that the config names, for the files in `folder`, or raise BadStage."""
    # Imported here because the other runtimes need not be installed.
    if spec.runtime == "onnxruntime":
        from .onnx_engine import OnnxEngine

        return OnnxEngine(folder, spec)
    if spec.runtime == "torch":
        from .torch_engine import open_torch

        return open_torch(folder, spec)
    if spec.runtime == "tensorrt-rtx":
        from .rtx_program import open_rtx

        return open_rtx(folder, spec)
    raise BadStage(
        f"{spec.model}: parameter 'runtime' must be onnxruntime, torch or tensorrt-rtx, not "
        f"'{spec.runtime}'"
    )


def open_utterance_engine(folder: Path, spec: StageSpec) -> UtteranceEngine:
    """Return the engine for whole utterances, for the files in `folder`, or raise BadStage."""
    if spec.runtime == "torch":
        from .torch_utterances import open_torch_utterances

        return open_torch_utterances(folder, spec)
    if spec.runtime == "onnxruntime":
        from .onnx_utterances import OnnxUtterances

        return OnnxUtterances(folder / "model.onnx", spec)
    raise BadStage(
        f"{spec.model}: parameter 'runtime' of whole utterances must be onnxruntime or torch, not "
        f"'{spec.runtime}'"
    )
