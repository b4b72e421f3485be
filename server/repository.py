"""Checks a model repository before Triton sees it, and reads from it what the flags depend on.

Triton reports a missing file from deep inside a load; here the message can say what to do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from .errors import BadRepository

RUNTIMES = ("onnxruntime", "torch")
BUNDLED_BACKENDS = {
    folder.parent.name: folder.parent
    for folder in (Path(__file__).parent / "backends").glob("*/model.py")
}
EXPORT_HINT = "export the models first (see `python -m export --help`)"

# What a version folder must hold, by backend; without it Triton fails deep inside a load.
_MODEL_FILES = {
    "earshot_detokenizer": "tokenizer.json",
    "python": "model.py",
}


@dataclass(frozen=True)
class Repository:
    """A model repository that can be served."""

    path: Path
    models: tuple[str, ...]
    max_streams: int
    batch_bytes: int
    """Tensors of the largest batch of any model, in and out."""
    runtime: str
    """Name of the configs in `configs/` that are served."""


def read_repository(path: Path, runtime: str | None = None) -> Repository:
    """Reads all model configs of a runtime; raises BadRepository.

    Without one, it is the one that the repository was exported for.
    """
    if not path.is_dir():
        raise BadRepository(f"no model repository at {path}")
    runtime = runtime or _exported_runtime(path)
    folders = sorted(c for c in path.iterdir() if _config_path(c, runtime) is not None)
    if not folders:
        raise BadRepository(f"{path} holds no model with a config.pbtxt; {EXPORT_HINT}")
    configs = {folder.name: _read_config(folder, runtime) for folder in folders}
    for folder in folders:
        _check_model(folder, configs[folder.name], runtime)
    return Repository(
        path.resolve(), tuple(configs), _max_streams(configs), _batch_bytes(configs), runtime
    )


def _exported_runtime(path: Path) -> str:
    """The first for which there are configs; repositories of other models have none."""
    found = (name for name in RUNTIMES if any(path.glob(f"*/configs/{name}.pbtxt")))
    return next(found, RUNTIMES[0])


def _config_path(folder: Path, runtime: str) -> Path | None:
    """The config that Triton would take, given `--model-config-name`."""
    candidates = (folder / "configs" / f"{runtime}.pbtxt", folder / "config.pbtxt")
    return next((path for path in candidates if path.is_file()), None)


def _read_config(folder: Path, runtime: str) -> Any:
    path = _config_path(folder, runtime)
    assert path is not None
    config: Any = model_config_pb2.ModelConfig()  # pyright: ignore
    try:
        text_format.Parse(path.read_text(), config)
    except text_format.ParseError as error:
        raise BadRepository(f"{path} is not a model config: {error}") from error
    return config


def _check_model(folder: Path, config: Any, runtime: str) -> None:
    if config.platform == "ensemble":
        return
    if config.backend not in {*BUNDLED_BACKENDS, "python"}:
        raise BadRepository(
            f"model {folder.name} needs the backend '{config.backend or config.platform}', which "
            f"the embedded server has not: give it a configs/{runtime}.pbtxt, or serve this "
            "repository from NVIDIA's container"
        )
    wanted = _model_file(config)
    if wanted is not None and not any((version / wanted).is_file() for version in folder.iterdir()):
        raise BadRepository(f"model {folder.name} has no {wanted} in {folder}/1; {EXPORT_HINT}")


def _model_file(config: Any) -> str | None:
    if config.backend == "earshot":
        on_torch = config.parameters["runtime"].string_value == "torch"
        return "model.pt2" if on_torch else "model.onnx"
    return _MODEL_FILES.get(config.backend)


def _max_streams(configs: Mapping[str, Any]) -> int:
    """Live streams that the service admits: its tightest stage sets the number."""
    limits = [
        _streams_per_instance(model, config.parameters["max_streams"].string_value)
        * sum(group.count for group in config.instance_group)
        for model, config in configs.items()
        if "max_streams" in config.parameters
    ]
    return min(limits, default=0)


def _batch_bytes(configs: Mapping[str, Any]) -> int:
    """As if every element took four bytes: those that take more are small tensors."""
    return max(
        max(1, config.max_batch_size)
        * sum(4 * abs(math.prod(tensor.dims)) for tensor in (*config.input, *config.output))
        for config in configs.values()
    )


def _streams_per_instance(model: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise BadRepository(
            f"model {model}: parameter 'max_streams' must be a count >= 1, not '{text}'; "
            "export the models again"
        )
    return int(text)
