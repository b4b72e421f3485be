"""Checks a model repository before Triton sees it, and reads from it what the flags depend on.

Triton reports a missing file from deep inside a load; here the message can say what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from .errors import BadRepository

CONFIG_NAME = "onnxruntime"
BUNDLED_BACKENDS = {
    folder.parent.name: folder.parent
    for folder in (Path(__file__).parent / "backends").glob("*/model.py")
}
EXPORT_HINT = "export the models first (see `python -m export --help`)"

# What a version folder must hold, by backend; without it Triton fails deep inside a load.
_MODEL_FILES = {
    "earshot": "model.onnx",
    "earshot_detokenizer": "tokenizer.json",
    "python": "model.py",
}


@dataclass(frozen=True)
class Repository:
    """A model repository that can be served."""

    path: Path
    models: tuple[str, ...]
    max_streams: int


def read_repository(path: Path) -> Repository:
    """Reads all model configs of the embedded runtime; raises BadRepository."""
    if not path.is_dir():
        raise BadRepository(f"no model repository at {path}")
    folders = sorted(child for child in path.iterdir() if _config_path(child) is not None)
    if not folders:
        raise BadRepository(f"{path} holds no model with a config.pbtxt; {EXPORT_HINT}")
    configs = {folder.name: _read_config(folder) for folder in folders}
    for folder in folders:
        _check_model(folder, configs[folder.name])
    return Repository(path.resolve(), tuple(configs), _max_streams(configs))


def _config_path(folder: Path) -> Path | None:
    """The config that Triton would take, given `--model-config-name`."""
    candidates = (folder / "configs" / f"{CONFIG_NAME}.pbtxt", folder / "config.pbtxt")
    return next((path for path in candidates if path.is_file()), None)


def _read_config(folder: Path) -> Any:
    path = _config_path(folder)
    assert path is not None
    config: Any = model_config_pb2.ModelConfig()  # pyright: ignore
    try:
        text_format.Parse(path.read_text(), config)
    except text_format.ParseError as error:
        raise BadRepository(f"{path} is not a model config: {error}") from error
    return config


def _check_model(folder: Path, config: Any) -> None:
    if config.platform == "ensemble":
        return
    if config.backend not in {*BUNDLED_BACKENDS, "python"}:
        raise BadRepository(
            f"model {folder.name} needs the backend '{config.backend or config.platform}', which "
            f"the embedded server has not: give it a configs/{CONFIG_NAME}.pbtxt, or serve this "
            "repository from NVIDIA's container"
        )
    wanted = _MODEL_FILES.get(config.backend)
    if wanted is not None and not any((version / wanted).is_file() for version in folder.iterdir()):
        raise BadRepository(f"model {folder.name} has no {wanted} in {folder}/1; {EXPORT_HINT}")


def _max_streams(configs: Mapping[str, Any]) -> int:
    """Live streams that the service admits: in each ensemble its tightest stage sets the number."""
    limits = {
        model: _streams_per_instance(model, config.parameters["max_streams"].string_value)
        * sum(group.count for group in config.instance_group)
        for model, config in configs.items()
        if config.platform != "ensemble" and "max_streams" in config.parameters
    }
    return sum(
        min((limits[member] for member in _members(config) if member in limits), default=0)
        for config in configs.values()
    )


def _members(config: Any) -> list[str]:
    return [step.model_name for step in config.ensemble_scheduling.step]


def _streams_per_instance(model: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise BadRepository(
            f"model {model}: parameter 'max_streams' must be a count >= 1, not '{text}'; "
            "export the models again"
        )
    return int(text)
