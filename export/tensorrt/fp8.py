"""Quantize the half-precision encoder to fp8: Q/DQ around its linear layers, calibrated on speech.

This uses NVIDIA's modelopt, which pins older versions of onnx and ONNX Runtime than this project.
So it is installed in an environment of its own, in which `fp8_worker.py` runs. The variable
`EARSHOT_MODELOPT_PYTHON` names the interpreter of that environment; the container has one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import BuildFailed, UnsupportedOption
from export.formats.onnx_stage import Arrays
from export.spec import StageSpec
from export.stages.state import Stage
from export.streaming.chain import Chain
from export.streaming.spec import StreamingSpec
from export.tensorrt.flat import StatefulStage, open_torch

PYTHON_VARIABLE = "EARSHOT_MODELOPT_PYTHON"
CALIBRATION_STEPS = 16
"""Number of chunks, spread over the recordings, whose inputs calibrate the ranges."""

_WORKER = Path(__file__).with_name("fp8_worker.py")
_TIMEOUT_S = 3600


def modelopt_python() -> Path:
    """Return the interpreter that has modelopt.

    Raises:
        UnsupportedOption: the variable names no interpreter.
    """
    named = os.environ.get(PYTHON_VARIABLE, "")
    if not os.access(named, os.X_OK):
        raise UnsupportedOption(
            f"--precision fp8 needs nvidia-modelopt[onnx] in an environment of its own: expected "
            f"{PYTHON_VARIABLE} to name its Python, got '{named}'; `make gpu-up GPU_PRECISION=fp8` "
            "brings one"
        )
    return Path(named)


def quantize_encoder_fp8(
    encoder_onnx: Path,
    stages: Sequence[Stage],
    spec: StreamingSpec,
    utterances: Sequence[NDArray[np.float32]],
) -> None:
    """Replace the half-precision encoder in `encoder_onnx` with one whose linear layers are fp8.

    Raises:
        BuildFailed: the message holds modelopt's last lines.
    """
    calibration = encoder_onnx.with_name("calibration.npz")
    quantized = encoder_onnx.with_name("quantized.onnx")
    np.savez(calibration, **_calibration(stages, spec, utterances))  # pyright: ignore
    command = [modelopt_python(), "-I", _WORKER, encoder_onnx, calibration, quantized]
    result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    if result.returncode or not quantized.is_file():
        output = "\n".join(result.stderr.splitlines()[-15:])
        raise BuildFailed(f"modelopt did not quantize the encoder:\n{output}")
    calibration.unlink()
    quantized.replace(encoder_onnx)


def _calibration(
    stages: Sequence[Stage], spec: StreamingSpec, utterances: Sequence[NDArray[np.float32]]
) -> dict[str, NDArray[np.generic]]:
    """Return the encoder's inputs for real speech, with its state, by name: [samples, ...]."""
    by_name = {stage.name: half for stage, half in zip(spec.stages, stages, strict=True)}
    kept: list[Arrays] = []

    def open_stage(path: Path, stage: StageSpec, streams: int) -> StatefulStage:
        running = open_torch(by_name[stage.name], stage, streams)
        return _Recorded(running, kept) if stage.role == "encoder" else running

    Chain(Path(), spec, len(utterances), open_stage).transcribe(utterances)
    chosen = kept[:: max(1, len(kept) // CALIBRATION_STEPS)]
    mel, length, state = (np.concatenate(values) for values in zip(*chosen, strict=True))
    return {"MEL": mel, "MEL_LENGTH": length, "STATE": state.astype(np.float16)}


class _Recorded(StatefulStage):
    """Records the inputs of a stage."""

    def __init__(self, running: StatefulStage, kept: list[Arrays]) -> None:
        self.states = running.states
        self._running, self._kept = running, kept

    def step(self, inputs: Arrays, slots: NDArray[np.int64]) -> Arrays:  # type: ignore[override]
        """Record the inputs, then process the chunk."""
        self._kept.append([*inputs, self.states[slots]])
        return self._running.step(inputs, slots)
