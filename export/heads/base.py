"""Read from a repository the recognizer that heads are added to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import UnsupportedOption
from export.options import UNNAMED, Serving
from export.pbtxt import read_parameters
from export.spec import served_name
from export.stages.layout import StateLayout
from export.streaming.spec import ENSEMBLE, StreamingSpec


@dataclass(frozen=True)
class InstalledBase:
    """A streaming recognizer of a repository."""

    spec: StreamingSpec
    parameters: Mapping[str, str]
    """What its ensemble tells clients."""
    checkpoint_sha256: str
    """Hash of the weights that it was exported from, as `Checkpoint.sha256`."""


def read_base(repository: Path, name: str) -> InstalledBase:
    """Read the recognizer `name`, "" for the one without a name.

    Raises:
        UnsupportedOption: it is missing, or none that heads can be added to.
    """
    folder = repository / served_name(name, ENSEMBLE)
    try:
        manifest = json.loads((folder / "1" / "manifest.json").read_text("utf-8"))
        config = (folder / "config.pbtxt").read_text("utf-8")
    except OSError as error:
        raise UnsupportedOption(
            f"{repository} has no recognizer '{name or UNNAMED}' to add heads to ({error}): export "
            "it first with `python -m export`, or choose another with --base"
        ) from error
    if "adapter" in manifest:
        raise UnsupportedOption(
            f"{folder.name} is an adapter, and heads are trained on the frames of a checkpoint: "
            f"add them to {manifest['base']}"
        )
    if "heads" in manifest:
        raise UnsupportedOption(
            f"{folder.name} has heads itself: add all of them to {manifest['base']} in one command"
        )
    if manifest["runtime"] != "onnxruntime" or manifest["layout"] != "stages":
        raise UnsupportedOption(
            f"{folder.name} is for {manifest['runtime']} in the layout {manifest['layout']}; heads "
            "are for onnxruntime and need the layout stages, whose encoder is a model of its own"
        )
    parameters = read_parameters(config)
    spec = _spec(manifest, parameters, int(_found(r"^max_batch_size: (\d+)", config)), name)
    return InstalledBase(spec, parameters, manifest["checkpoint"]["sha256"])


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
