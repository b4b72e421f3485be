"""Find the exported recognizer for which an adapter is to be installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from export.checkpoint import Checkpoint
from export.errors import UnsupportedOption
from export.formats.packed_adapters import Parts
from export.offline import adapter_parity as files
from export.offline.export import build_stages as build_offline_stages
from export.offline.export import spec_of as offline_spec_of
from export.offline.export import with_adapters
from export.options import ExportOptions, OfflineServing, Serving
from export.parity import Parity
from export.shared import read_base, read_manifest
from export.spec import ENSEMBLES, OFFLINE, STREAMING, StageSpec, served_name
from export.stages.adapters import AdaptedModule, AdapterPlan, LowRank
from export.stages.half import half_stages
from export.stages.offline.half import half_stages as half_offline_stages
from export.streaming import adapter_parity as streams
from export.streaming.export import build_stages, spec_of


class Compare(Protocol):
    """Compares adapters with `transformers`; see `check_adapters`."""

    def __call__(
        self,
        merged: Sequence[Checkpoint],
        adapters: Sequence[Parts],
        *,
        utterances: Sequence[NDArray[np.float32]],
    ) -> Parity:
        """Return the differences, or raise ParityFailed."""
        ...


@dataclass(frozen=True)
class Base:
    """An exported ensemble whose models take adapters."""

    role: str
    """`STREAMING` or `OFFLINE`."""
    ensemble: str
    """Name of the ensemble in Triton."""
    plans: Mapping[str, AdapterPlan]
    """The layout of an adapter's matrices, by the role of the stage."""
    rank: int
    """Largest rank of an adapter."""
    compare: Compare

    def pack(self, layers: Mapping[str, LowRank]) -> Parts:
        """Return the rows of an adapter, by the role of the stage that each part changes."""
        return {role: plan.pack(layers).numpy() for role, plan in self.plans.items()}


def read_bases(checkpoint: Checkpoint, repository: Path, name: str) -> list[Base]:
    """Read the recognizer `name` of a repository: its ensembles that take adapters.

    Raises:
        UnsupportedOption: it is missing, takes no adapters, or was exported from another
            checkpoint.
    """
    there = [role for role in ENSEMBLES if (repository / served_name(name, role)).exists()]
    # An ensemble without adapters may come from another checkpoint.
    meant = [role for role in there if _may_be_base(repository / served_name(name, role))]
    manifests = {
        role: read_base(repository, served_name(name, role), checkpoint)
        for role in meant or there or [STREAMING]
    }
    bases = [
        _READ[role](checkpoint, repository, name, manifest)
        for role, manifest in manifests.items()
        if "adapters" in manifest
    ]
    if not bases:
        command = f"python -m export CHECKPOINT --adapters 64 --repository {repository}" + (
            f" --name {name}" if name else ""
        )
        raise UnsupportedOption(
            f"{' and '.join(served_name(name, role) for role in there)} in {repository} was "
            f"exported without adapters: export it again with `{command}`"
        )
    return bases


def _may_be_base(ensemble: Path) -> bool:
    """Return True unless the ensemble was exported without adapters."""
    manifest = read_manifest(ensemble)
    return "adapters" in manifest or "base" in manifest


def _streaming(
    checkpoint: Checkpoint, repository: Path, name: str, manifest: Mapping[str, Any]
) -> Base:
    options = ExportOptions(
        checkpoint.name,
        repository,
        chunk_ms=manifest["chunk_ms"],
        runtime=manifest["runtime"],
        precision=manifest["precision"],
        layout=manifest["layout"],
        name=name,
        serving=Serving(adapters=manifest["adapters"], adapter_rank=manifest["adapter_rank"]),
    )
    stages = build_stages(checkpoint, options.frames)
    if options.runtime == "torch":
        stages = half_stages(stages, options.precision)
    spec = spec_of(checkpoint, stages, options)
    return Base(
        role=STREAMING,
        ensemble=spec.ensemble.name,
        plans=_plans(spec.stages, stages, manifest["adapter_rank"]),
        rank=manifest["adapter_rank"],
        compare=partial(streams.check_adapters, folder=repository, spec=spec),
    )


def _offline(
    checkpoint: Checkpoint, repository: Path, name: str, manifest: Mapping[str, Any]
) -> Base:
    serving = OfflineServing(adapters=manifest["adapters"], adapter_rank=manifest["adapter_rank"])
    options = ExportOptions(
        checkpoint.name,
        repository,
        runtime=manifest["runtime"],
        precision=manifest["precision"],
        name=name,
        offline_serving=serving,
    )
    spec = offline_spec_of(checkpoint, options)
    stages = build_offline_stages(checkpoint, spec)
    if spec.fused:
        stages = half_offline_stages(stages, spec.precision)
    spec = with_adapters(spec, stages)
    return Base(
        role=OFFLINE,
        ensemble=spec.ensemble.name,
        plans=_plans(spec.stages, stages, manifest["adapter_rank"]),
        rank=manifest["adapter_rank"],
        compare=partial(files.check_adapters, folder=repository, spec=spec),
    )


_READ = {STREAMING: _streaming, OFFLINE: _offline}


def _plans(
    specs: Sequence[StageSpec], stages: Iterable[AdaptedModule], rank: int
) -> dict[str, AdapterPlan]:
    return {
        spec.role: plan
        for spec, stage in zip(specs, stages, strict=True)
        if (plan := stage.adapter_plan(rank))
    }
