"""Read the recognizer of a repository to which heads are added."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.checkpoint import Checkpoint
from export.errors import UnsupportedOption
from export.options import Serving
from export.pbtxt import read_parameters
from export.shared import read_base
from export.spec import STREAMING, served_name
from export.stages.layout import StateLayout
from export.streaming.spec import StreamingSpec

RUNTIMES = ("onnxruntime", "torch")
"""Runtimes of recognizers that heads can be added to."""


@dataclass(frozen=True)
class InstalledBase:
    """A streaming recognizer of a repository."""

    spec: StreamingSpec
    parameters: Mapping[str, str]
    """The parameters of its ensemble, which clients read."""


def installed_base(repository: Path, name: str, checkpoint: Checkpoint) -> InstalledBase:
    """Read the recognizer `name`; "" is the unnamed one.

    Raises:
        UnsupportedOption: it is missing, is of another checkpoint, or does not support heads.
    """
    folder = repository / served_name(name, STREAMING)
    manifest = read_base(repository, folder.name, checkpoint)
    if manifest["runtime"] not in RUNTIMES or manifest["layout"] != "stages":
        raise UnsupportedOption(
            f"{folder.name} is for {manifest['runtime']} in the layout {manifest['layout']}; heads "
            f"are for {' and '.join(RUNTIMES)}, in the layout stages, whose encoder is a separate "
            "model"
        )
    config = (folder / "config.pbtxt").read_text("utf-8")
    parameters = read_parameters(config)
    spec = _spec(manifest, parameters, int(_found(r"^max_batch_size: (\d+)", config)), name)
    return InstalledBase(spec, parameters)


def _spec(
    manifest: Mapping[str, Any], parameters: Mapping[str, str], max_batch_size: int, name: str
) -> StreamingSpec:
    dims = manifest["dims"]
    states = {
        role: StateLayout(**dims["state"][served_name(name, role)])
        for role in ("feature_extractor", "encoder", "decoder")
    }
    return StreamingSpec(
        checkpoint=manifest["checkpoint"]["name"],
        chunk_ms=manifest["chunk_ms"],
        num_mel_bins=dims["num_mel_bins"],
        encoded_size=dims["encoded_size"],
        max_tokens=dims["max_tokens"],
        feature_state=states["feature_extractor"],
        encoder_state=states["encoder"],
        decoder_state=states["decoder"],
        runtime=manifest["runtime"],
        precision=manifest["precision"],
        serving=Serving(
            max_streams=int(parameters["max_streams"]),
            max_batch_size=max_batch_size,
            sequence_idle_ms=int(parameters["sequence_idle_ms"]),
        ),
        name=name,
    )


def _found(pattern: str, config: str) -> str:
    match = re.search(pattern, config, re.MULTILINE)
    assert match is not None, f"written by export/pbtxt.py, so that it has {pattern}"
    return match[1]
