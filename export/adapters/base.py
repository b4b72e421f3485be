"""Find the exported recognizer that an adapter is to be installed beside."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.checkpoint import Checkpoint
from export.errors import UnsupportedOption
from export.options import ExportOptions, Serving
from export.spec import served_name
from export.stages.adapters import AdapterPlan
from export.stages.half import half_stages
from export.streaming.export import build_stages, spec_of
from export.streaming.spec import ENSEMBLE, StreamingSpec


@dataclass(frozen=True)
class Base:
    """An exported recognizer whose models take adapters."""

    spec: StreamingSpec
    plans: dict[str, AdapterPlan]
    """Where the matrices of an adapter lie, by the role of the stage."""
    rank: int
    """Largest rank of an adapter."""


def read_base(checkpoint: Checkpoint, repository: Path, name: str) -> Base:
    """Read the recognizer `name` of a repository, which was exported from `checkpoint`.

    Raises:
        UnsupportedOption: it is not there, takes no adapters, or is of another checkpoint.
    """
    options = _exported(checkpoint, repository, name)
    stages = build_stages(checkpoint, options.frames)
    if options.runtime == "torch":
        stages = half_stages(stages, options.precision)
    rank = options.serving.adapter_rank
    plans = {
        role: plan
        for role, stage in zip(("feature_extractor", "encoder", "decoder"), stages, strict=True)
        if (plan := stage.adapter_plan(rank))
    }
    return Base(spec_of(checkpoint, stages, options), plans, rank)


def _exported(checkpoint: Checkpoint, repository: Path, name: str) -> ExportOptions:
    """Return the options of the export, from its manifest."""
    ensemble = served_name(name, ENSEMBLE)
    command = f"python -m export CHECKPOINT --adapters 64 --repository {repository}" + (
        f" --name {name}" if name else ""
    )
    try:
        manifest: dict[str, Any] = json.loads(
            (repository / ensemble / "1" / "manifest.json").read_text(encoding="utf-8")
        )
    except OSError as error:
        raise UnsupportedOption(
            f"{repository} has no {ensemble}, beside which an adapter could be served: export it "
            f"with `{command}`"
        ) from error
    if "adapters" not in manifest:
        raise UnsupportedOption(
            f"{ensemble} in {repository} was exported without adapters: export it again with "
            f"`{command}`"
        )
    exported = manifest["checkpoint"]
    if exported["sha256"] != checkpoint.sha256:
        raise UnsupportedOption(
            f"{ensemble} in {repository} was exported from other weights ({exported['name']}) "
            f"than {checkpoint.name}; choose another --base, or export {checkpoint.name}"
        )
    serving = Serving(adapters=manifest["adapters"], adapter_rank=manifest["adapter_rank"])
    return ExportOptions(
        checkpoint.name,
        repository,
        chunk_ms=manifest["chunk_ms"],
        runtime=manifest["runtime"],
        precision=manifest["precision"],
        layout=manifest["layout"],
        name=name,
        serving=serving,
    )
