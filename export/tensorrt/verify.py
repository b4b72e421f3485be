"""`python -m export.tensorrt.verify CHECKPOINT`: compare the installed engines on this GPU.

Every stage is compared with its ONNX file, on the same real speech, each keeping its own state;
then the chain of engines is compared with `transformers`. The command exits with 1 on a difference.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from export.checkpoint import Checkpoint, load_checkpoint
from export.errors import ExportError, GateFailed, ParityFailed, UnsupportedOption
from export.formats.onnx_stage import Arrays
from export.options import ExportOptions
from export.parity import Parity
from export.recordings import load_recordings
from export.spec import OFFLINE, STREAMING, StageSpec, served_name
from export.stages.state import Stage
from export.streaming.chain import Chain, OpenStage, RunningStage
from export.streaming.parity import check_parity
from export.streaming.spec import StreamingSpec
from export.tensorrt.flat import StatefulStage, open_onnx, open_torch
from export.tensorrt.stages import tensorrt_stages

STAGE_TOLERANCE = {"fp32": 5e-3, "fp16": 5e-2, "bf16": 5e-1, "fp8": 5e-1}
"""Largest allowed difference of an output or a final state, of order 1, after the recordings.

Two implementations of a graph round differently: ONNX Runtime and torch, both on the CPU, differ by
less than a fifth of this. It has not been compared with a GPU."""


@dataclass(frozen=True)
class StageDifference:
    """Differences of an engine from its ONNX file, over real speech with chained state."""

    outputs: float
    final_state: float


class _Pair:
    """Two runtimes of one stage that get the same inputs; the outputs are those of the first."""

    def __init__(self, first: StatefulStage, second: StatefulStage) -> None:
        self.first, self.second = first, second
        self.outputs = 0.0

    def step(self, inputs: Sequence[NDArray[Any]], slots: NDArray[np.int64]) -> Arrays:
        """Process one chunk in both runtimes; return the outputs of the first."""
        mine, other = self.first.step(inputs, slots), self.second.step(inputs, slots)
        for a, b in zip(mine, other, strict=True):
            if np.issubdtype(a.dtype, np.floating):
                self.outputs = max(self.outputs, float(np.abs(a - b).max(initial=0.0)))
        return mine

    @property
    def difference(self) -> StageDifference:
        """Return the largest differences so far."""
        apart = np.abs(self.first.states - self.second.states).max(initial=0.0)
        return StageDifference(outputs=self.outputs, final_state=float(apart))


def compare_stages(
    folder: Path,
    spec: StreamingSpec,
    utterances: Sequence[NDArray[np.float32]],
    open_first: OpenStage,
    open_second: OpenStage,
) -> dict[str, StageDifference]:
    """Compare two runtimes stage by stage, within the chain of the first.

    Raises:
        ParityFailed: the message names the stage that differs by more than its tolerance.
    """
    pairs: dict[str, _Pair] = {}

    def open_pair(path: Path, stage: StageSpec, streams: int) -> RunningStage:
        first, second = open_first(path, stage, streams), open_second(path, stage, streams)
        assert isinstance(first, StatefulStage)
        assert isinstance(second, StatefulStage)
        pairs[stage.name] = _Pair(first, second)
        return pairs[stage.name]

    Chain(folder, spec, len(utterances), open_pair).transcribe(utterances)
    differences = {name: pair.difference for name, pair in pairs.items()}
    for stage in spec.stages:
        # After a different token all decoder outputs differ; its tokens are compared in the chain.
        worst = max(differences[stage.name].outputs, differences[stage.name].final_state)
        if stage.role != "decoder" and not worst <= STAGE_TOLERANCE[spec.precision]:
            raise ParityFailed(
                f"{stage.name}: the engine differs from its ONNX file by {worst:.3g}, allowed "
                f"{STAGE_TOLERANCE[spec.precision]:.3g}"
            )
    return differences


def reference_of(stages: Sequence[Stage], spec: StreamingSpec) -> OpenStage:
    """Return the reference of an engine: its ONNX file or, in bf16, the exported stage."""
    by_name = {stage.name: half for stage, half in zip(spec.stages, stages, strict=True)}

    def open_reference(path: Path, stage: StageSpec, streams: int) -> StatefulStage:
        if spec.precision == "bf16" and stage.role != "feature_extractor":
            return open_torch(by_name[stage.name], stage, streams)
        return open_onnx(path, stage, streams)

    return open_reference


def verify_engines(
    checkpoint: Checkpoint,
    folder: Path,
    spec: StreamingSpec,
    stages: Sequence[Stage],
    utterances: Sequence[NDArray[np.float32]],
) -> tuple[dict[str, StageDifference], Parity]:
    """Compare the engines in `folder` with ONNX stage by stage, and the chain with `transformers`.

    Raises:
        ParityFailed: the message names the stage that differs and the difference.
    """
    from export.tensorrt.engine import open_engine

    reference = reference_of(stages, spec)
    differences = compare_stages(folder, spec, utterances, open_engine, reference)
    return differences, check_parity(checkpoint, folder, spec, utterances, open_engine)


def _installed(checkpoint: Checkpoint, repository: Path, ensemble: str) -> dict[str, Any] | None:
    """Return the manifest of installed engines, or None if this ensemble is not installed."""
    path = repository / ensemble / "1" / "manifest.json"
    if not path.is_file():
        return None
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest["runtime"] != "tensorrt":
        raise UnsupportedOption(f"{repository} is for {manifest['runtime']}, not for tensorrt")
    if manifest["checkpoint"]["sha256"] != checkpoint.sha256:
        raise UnsupportedOption(
            f"the engines in {repository} are of another checkpoint "
            f"({manifest['checkpoint']['name']}); `make gpu-up CHECKPOINT=...` builds them anew"
        )
    return manifest


def _verify_streaming(checkpoint: Checkpoint, options: ExportOptions) -> dict[str, Any]:
    from export.streaming.export import spec_of

    stages = tensorrt_stages(checkpoint, options.frames, options.precision)
    spec = spec_of(checkpoint, stages, options)
    speech = [recording.samples for recording in load_recordings()]
    differences, parity = verify_engines(checkpoint, options.repository, spec, stages, speech)
    measured = {stage: asdict(difference) for stage, difference in differences.items()}
    return {"precision": spec.precision, "stages": measured, "chain": parity.as_dict()}


def _verify_offline(checkpoint: Checkpoint, options: ExportOptions) -> dict[str, Any]:
    from export.offline.export import spec_of
    from export.offline.parity import check_offline_parity
    from export.tensorrt.export_offline import open_engines

    spec = spec_of(checkpoint, options)
    speech = [recording.samples for recording in load_recordings()]
    parity = check_offline_parity(checkpoint, options.repository, spec, speech, open_engines(spec))
    return {"precision": spec.precision, "chain": parity.as_dict()}


def main(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint that the engines were built from.")],
    repository: Annotated[Path, typer.Option(help="Model repository that holds the engines.")],
    name: Annotated[str, typer.Option(help="Name that they were exported under, if any.")] = "",
) -> None:
    """Compare the installed engines with ONNX and transformers; print the result as JSON."""
    from export.tensorrt.gpu import require_tensorrt

    measured: dict[str, Any] = {}
    try:
        require_tensorrt()
        options = ExportOptions(checkpoint, repository, runtime="tensorrt", name=name)
        loaded = load_checkpoint(checkpoint)
        streaming = _installed(loaded, repository, served_name(name, STREAMING))
        offline = _installed(loaded, repository, served_name(name, OFFLINE))
        if streaming is None and offline is None:
            raise UnsupportedOption(f"{repository} holds no engines; `make gpu-up` exports them")
        if streaming is not None:
            exported = replace(
                options, chunk_ms=streaming["chunk_ms"], precision=streaming["precision"]
            )
            measured[STREAMING] = _verify_streaming(loaded, exported)
        if offline is not None:
            measured[OFFLINE] = _verify_offline(loaded, options)
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1 if isinstance(error, GateFailed) else 2) from None
    print(json.dumps(measured))


if __name__ == "__main__":
    typer.run(main)
