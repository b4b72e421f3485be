"""Add heads to a recognizer of a repository: one stage, and an ensemble that shares its models."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from export.checkpoint import Checkpoint
from export.errors import UnsupportedOption
from export.formats.onnx_file import export_onnx
from export.formats.torch_file import export_torch
from export.heads.base import InstalledBase, installed_base
from export.heads.config import config_files
from export.heads.files import Head, HeadFiles, joined, read_heads
from export.heads.parity import HeadParity, check_heads
from export.heads.spec import HeadsSpec
from export.install import replacing, write_configs
from export.manifest import write_manifest
from export.options import UNNAMED, Report, check_name
from export.recordings import load_recordings
from export.shared import require_free, require_trained_on
from export.stages.heads import Heads

HEADS_PRECISION = "fp32"
"""Heads are small, and their sums grow with the stream."""


@dataclass(frozen=True)
class HeadOptions:
    """Everything that a user chooses for one export of heads.

    Raises:
        UnsupportedOption: the name is invalid, or is that of the base.
    """

    folders: tuple[Path, ...]
    """Heads, as `python -m training head` writes them."""
    checkpoint: str
    """The local folder of the base's checkpoint."""
    name: str
    """Name of the recognizer that has the heads."""
    base: str = ""
    """Name of the recognizer whose models the new one shares."""
    repository: Path = Path("model_repository")
    only: tuple[str, ...] = ()
    """Names of the heads to serve, in this order; empty for all."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.name == self.base:
            raise UnsupportedOption(
                f"--name '{self.name or UNNAMED}' is the recognizer that the heads are added to, "
                "which stays as it is: choose another name"
            )


def export_heads(options: HeadOptions, checkpoint: Checkpoint, report: Report) -> HeadParity:
    """Build the stage and the ensemble, compare with `transformers`, and install both.

    Raises:
        UnsupportedCheckpoint: a folder contains no heads, or heads trained on other weights.
        UnsupportedOption: the heads are for other chunks than those of the base.
        ParityFailed: the result differs from the original; nothing was installed.
    """
    began = time.monotonic()
    require_free(options.repository, options.name, "heads")
    files = [read_heads(folder) for folder in options.folders]
    base = installed_base(options.repository, options.base, checkpoint)
    for trained in files:
        require_trained_on(trained.folder, trained.base_sha256, Path(options.checkpoint))
        _require_lookahead(trained, base)
    heads = joined(files, options.only)
    stage = Heads([head.weights for head in heads])
    spec = _spec(options, base, heads, stage)
    with replacing(options.repository) as new:
        folder = new.add(spec.models)
        _write_engine(folder / spec.stage.name / "1", stage, spec, report)
        write_configs(folder, config_files(spec))
        report("comparing with transformers on real speech")
        utterances = [recording.samples for recording in load_recordings()]
        parity = check_heads(checkpoint, heads, folder, options.repository, spec, utterances)
        write_manifest(folder, checkpoint, spec, parity, time.monotonic() - began)
    return parity


def _write_engine(folder: Path, stage: Heads, spec: HeadsSpec, report: Report) -> None:
    heads = len(spec.labels)
    if spec.runtime == "torch":
        report(f"{heads} heads to a program of torch.export")
        export_torch([stage], spec.stage, folder, HEADS_PRECISION)
    else:
        report(f"{heads} heads to ONNX")
        export_onnx([stage], spec.stage, folder / "model.onnx")


def _spec(
    options: HeadOptions, base: InstalledBase, heads: Sequence[Head], stage: Heads
) -> HeadsSpec:
    labels = {head.name: head.labels for head in heads}
    return HeadsSpec(options.name, base.spec, base.parameters, labels, stage.layout)


def _require_lookahead(heads: HeadFiles, base: InstalledBase) -> None:
    if heads.lookahead + 1 != base.spec.frames:
        raise UnsupportedOption(
            f"{heads.folder} was trained with lookahead {heads.lookahead}, the chunks of "
            f"{base.spec.chunk_ms} ms of {base.spec.ensemble.name} have {base.spec.frames - 1}: "
            f"train it with --lookahead {base.spec.frames - 1}"
        )
