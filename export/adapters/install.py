"""Install an adapter beside the recognizer that it changes, if it equals the merged checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.adapters.base import Base, read_base
from export.adapters.ensemble import WEIGHTS, write_ensemble
from export.adapters.peft_format import Adapter, merge, read_adapter, require_base
from export.checkpoint import load_checkpoint
from export.errors import UnsupportedOption
from export.install import Replacement
from export.manifest import file_sha256
from export.options import Report, check_name
from export.parity import Parity
from export.recordings import load_recordings
from export.shared import require_free
from export.spec import served_name
from export.streaming.adapter_parity import check_adapters, no_adapter
from export.streaming.spec import ENSEMBLE


def install_adapter(
    folder: Path, checkpoint: Path, new: Replacement, base_name: str, name: str, report: Report
) -> Parity:
    """Build the ensemble of the adapter in `folder`, to be installed as `name`.

    Args:
        checkpoint: the adapter's base.
        new: collects the ensemble; its repository holds the exported base.
        base_name: name of the base in that repository; "" for the unnamed recognizer.
        report: is called with the name of each step as it begins.

    Returns:
        The comparison with `transformers`, of base and adapter in the same batches.

    Raises:
        UnsupportedCheckpoint: the adapter is damaged, or of another base.
        UnsupportedOption: the base does not take the adapter, or the name is taken.
        ParityFailed: the adapter gives other tokens than the merged checkpoint.
    """
    if not name:
        raise UnsupportedOption("an adapter needs a --name, such as clinic")
    check_name(name)
    require_free(new.repository, name, "adapter")
    adapter = read_adapter(folder)
    require_base(adapter, checkpoint, folder)
    report("loading the checkpoint")
    loaded = load_checkpoint(str(checkpoint))
    base = read_base(loaded, new.repository, base_name)
    parts = _pack(adapter, base)
    merged = merge(loaded, adapter)
    report("comparing with transformers on real speech")
    parity = check_adapters(
        [loaded, merged],
        [no_adapter(base.spec), parts],
        new.repository,
        base.spec,
        [recording.samples for recording in load_recordings()],
    )
    built = new.add([served_name(name, ENSEMBLE)])
    ensemble = new.repository / base.spec.ensemble.name
    version = write_ensemble(built, ensemble, loaded.sha256, name, parts)
    manifest = {
        "adapter": name,
        "base": base.spec.ensemble.name,
        "checkpoint": {"name": loaded.name, "sha256": loaded.sha256},
        "rank": adapter.rank,
        "adapter_rank": base.rank,
        "files": {WEIGHTS: file_sha256(version / WEIGHTS)},
        "parity": parity.as_dict(),
        "installed_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(manifest, indent=2) + "\n"
    (version / "manifest.json").write_text(text, encoding="utf-8")
    return parity


def _pack(adapter: Adapter, base: Base) -> Mapping[str, NDArray[np.float32]]:
    """Return the rows of the adapter, by the role of the stage that they change."""
    if adapter.rank > base.rank:
        raise UnsupportedOption(
            f"the adapter has rank {adapter.rank}, and {base.spec.ensemble.name} takes ranks up to "
            f"{base.rank}: export it again with --adapter-rank {adapter.rank}"
        )
    known = {
        name
        for plan in base.plans.values()
        for projection in plan.projections
        for name in projection.names
    }
    if unknown := sorted(set(adapter.layers) - known):
        raise UnsupportedOption(
            f"the adapter changes {len(unknown)} layers that are not served as adapters "
            f"({', '.join(unknown[:3])}); merge it (`python -m training merge`) and export the "
            "result"
        )
    return {role: plan.pack(adapter.layers).numpy() for role, plan in base.plans.items()}
