"""Install an adapter beside its base, if it is equivalent to the merged checkpoint."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from export.adapters.base import Base, read_bases
from export.adapters.ensemble import WEIGHTS, write_ensemble
from export.adapters.peft_format import Adapter, merge, read_adapter
from export.checkpoint import Checkpoint, load_checkpoint
from export.errors import UnsupportedOption
from export.install import Replacement
from export.manifest import file_sha256
from export.options import Report, check_name
from export.parity import Parity
from export.recordings import load_recordings
from export.shared import require_free, require_trained_on
from export.spec import ENSEMBLES, served_name


def install_adapter(
    folder: Path, checkpoint: Path, new: Replacement, base_name: str, name: str, report: Report
) -> dict[str, Parity]:
    """Build the ensembles of the adapter in `folder`, to be installed as `name`.

    There is one for live streams, one for whole files, or both, as for the base.

    Args:
        checkpoint: the adapter's base.
        new: collects the ensembles; its repository holds the exported base.
        base_name: name of the base in that repository; "" for the unnamed recognizer.
        report: called with the name of each step as it begins.

    Returns:
        The comparison with `transformers` by ensemble, with base and adapter in the same batches.

    Raises:
        UnsupportedCheckpoint: the adapter is damaged, or was trained on another base.
        UnsupportedOption: the base does not take the adapter, or the name is taken.
        ParityFailed: the adapter gives other tokens than the merged checkpoint.
    """
    if not name:
        raise UnsupportedOption("an adapter needs a --name, such as clinic")
    check_name(name)
    require_free(new.repository, name, "adapter")
    adapter = read_adapter(folder)
    require_trained_on(folder, adapter.base_sha256, checkpoint)
    report("loading the checkpoint")
    loaded = load_checkpoint(str(checkpoint))
    bases = read_bases(loaded, new.repository, base_name)
    for base in bases:
        _require_fitting(adapter, base)
    merged = merge(loaded, adapter)
    ensembles = {served_name(name, base.role): base for base in bases}
    earlier = {served_name(name, role) for role in ENSEMBLES} - ensembles.keys()
    built = new.add(list(ensembles), sorted(earlier))
    utterances = [recording.samples for recording in load_recordings()]
    found: dict[str, Parity] = {}
    for ensemble, base in ensembles.items():
        report(f"{ensemble}: comparing with transformers on real speech")
        parts = base.pack(adapter.layers)
        found[ensemble] = base.compare(
            [loaded, merged], [base.pack({}), parts], utterances=utterances
        )
        version = write_ensemble(
            built, new.repository / base.ensemble, base.role, loaded.sha256, name, parts
        )
        _write_manifest(version, name, base, loaded, adapter.rank, found[ensemble])
    return found


def _write_manifest(
    version: Path, name: str, base: Base, checkpoint: Checkpoint, rank: int, parity: Parity
) -> None:
    manifest = {
        "adapter": name,
        "base": base.ensemble,
        "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.sha256},
        "rank": rank,
        "adapter_rank": base.rank,
        "files": {WEIGHTS: file_sha256(version / WEIGHTS)},
        "parity": parity.as_dict(),
        "installed_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(manifest, indent=2) + "\n"
    (version / "manifest.json").write_text(text, encoding="utf-8")


def _require_fitting(adapter: Adapter, base: Base) -> None:
    """Refuse an adapter with a larger rank than the base allows, or with other layers."""
    if adapter.rank > base.rank:
        raise UnsupportedOption(
            f"the adapter has rank {adapter.rank}, and {base.ensemble} takes ranks up to "
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
