"""Check a model repository before Triton loads it, and read what Triton's flags depend on.

Triton would report a missing file only while it loads; the errors here also say what to do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from .errors import BadRepository
from .tensorrt import Budget, read_budget

ONNXRUNTIME = "onnxruntime"
TORCH = "torch"
TENSORRT = "tensorrt"
TENSORRT_RTX = "tensorrt-rtx"
BUNDLED_BACKEND = Path(__file__).parent / "backends" / "earshot"
CONFIG = "config.pbtxt"
EXPORT_HINT = "export the models first (see `python -m export --help`)"

_AUDIO = {"AUDIO", "AUDIO_LENGTH"}
_TOKENIZER = "tokenizer.json"
_ENGINE_FILES = {
    ONNXRUNTIME: "model.onnx",
    TORCH: "model.pt2",
    TENSORRT_RTX: "model.engine",
    "tokenizers": _TOKENIZER,
}
"""Files that a version folder of the bundled backend must hold, by runtime."""
_MODEL_FILES = {"python": ["model.py"], "tensorrt": ["model.plan"]}
"""Files that a version folder must hold, by backend."""
_BACKENDS = {
    ONNXRUNTIME: {BUNDLED_BACKEND.name, "python"},
    TORCH: {BUNDLED_BACKEND.name, "python"},
    TENSORRT_RTX: {BUNDLED_BACKEND.name, "python"},
    TENSORRT: {BUNDLED_BACKEND.name, "python", "tensorrt"},
}


@dataclass(frozen=True)
class Ensemble:
    """A model that clients call, and the number of streams that its tightest stage accepts."""

    name: str
    max_batch_size: int
    max_streams: int
    """0 for whole files."""
    stages: Mapping[str, int] = field(default_factory=dict[str, int])
    """The number of instances of each of its models; the first model takes the audio."""
    chunk_ms: int = 0
    """0 for whole files."""
    checkpoint: str = ""
    runtime: str = ""
    precision: str = ""
    adapter: str = ""
    """Name of the adapter of an ensemble that shares the stages of its base; "" for others."""
    takes_audio: bool = True
    """False for an ensemble that somebody added for another purpose."""

    @property
    def is_recognizer(self) -> bool:
        """Return True for an ensemble to test and to limit; adapters are covered by their base."""
        return self.takes_audio and not self.adapter

    @property
    def instances(self) -> int:
        """Return the largest number of instances of a stage."""
        return max(self.stages.values(), default=1)


@dataclass(frozen=True)
class Repository:
    """A model repository that can be served."""

    path: Path
    models: tuple[str, ...]
    max_streams: int
    runtime: str = ONNXRUNTIME
    """The runtime of the models, or of those for live streams if the ones for files differ."""
    budget: Budget | None = None
    """GPU memory; for TensorRT only."""
    ensembles: tuple[Ensemble, ...] = ()
    """Recognizers with stages of their own; adapters only add names to them."""
    batch_bytes: int = 0
    """Bytes of inputs and outputs of the largest batch of any model with fixed shapes."""


def read_repository(path: Path) -> Repository:
    """Read all model configs, or raise a UserError."""
    if not path.is_dir():
        raise BadRepository(f"no model repository at {path}")
    folders = sorted(child for child in path.iterdir() if (child / CONFIG).is_file())
    if not folders:
        raise BadRepository(f"{path} holds no model with a {CONFIG}; {EXPORT_HINT}")
    configs = {folder.name: _read_config(folder) for folder in folders}
    runtime = _runtime(path, configs)
    for folder in folders:
        _check_model(folder, configs[folder.name], runtime)
    every = read_ensembles(configs)
    _check_steps(path, every, configs)
    _check_adapters(path, every, configs)
    ensembles = tuple(ensemble for ensemble in every if ensemble.is_recognizer)
    streams = sum({next(iter(e.stages), e.name): e.max_streams for e in ensembles}.values())
    budget = read_budget(path, configs, streams) if runtime == TENSORRT else None
    size = _batch_bytes(configs)
    return Repository(path.resolve(), tuple(configs), streams, runtime, budget, ensembles, size)


def _runtime(repository: Path, configs: Mapping[str, Any]) -> str:
    """Return the runtime that the models were exported for, from the ensembles' parameters."""
    runtimes: dict[str, str] = {}
    for model, config in configs.items():
        runtime = config.parameters["runtime"].string_value
        if config.platform == "ensemble" and runtime in _BACKENDS:
            runtimes[runtime] = model
    if runtimes.keys() == {ONNXRUNTIME, TENSORRT_RTX}:
        # TensorRT for RTX has no engines for whole files, which then run on ONNX Runtime.
        return TENSORRT_RTX
    if len(runtimes) > 1:
        found = ", ".join(f"{model} for {runtime}" for runtime, model in runtimes.items())
        raise BadRepository(
            f"{repository} holds {found}, and one server serves one runtime: export them into "
            "repositories of their own"
        )
    return next(iter(runtimes), ONNXRUNTIME)


def _read_config(folder: Path) -> Any:
    path = folder / CONFIG
    config: Any = model_config_pb2.ModelConfig()  # pyright: ignore
    try:
        text_format.Parse(path.read_text(), config)
    except text_format.ParseError as error:
        raise BadRepository(f"{path} is not a model config: {error}") from error
    return config


def _check_model(folder: Path, config: Any, runtime: str) -> None:
    if config.platform == "ensemble":
        return
    backend = "tensorrt" if config.platform == "tensorrt_plan" else config.backend
    if (folder / "configs").is_dir() or backend == "earshot_detokenizer":
        raise BadRepository(
            f"model {folder.name} in {folder.parent} was exported by an earlier version: export "
            "the models again"
        )
    if backend not in _BACKENDS[runtime]:
        raise BadRepository(
            f"model {folder.name} needs the backend '{config.backend or config.platform}', which a "
            f"server for {runtime} lacks: export it for {runtime}, or into another repository"
        )
    for wanted in _model_files(config, backend):
        if not any((version / wanted).is_file() for version in folder.iterdir()):
            raise BadRepository(
                f"model {folder.name} has no {wanted} in {folder}/1; {EXPORT_HINT}, or serve a "
                "repository that has no such model"
            )


def _model_files(config: Any, backend: str) -> list[str]:
    if backend != BUNDLED_BACKEND.name:
        return _MODEL_FILES.get(backend, [])
    runtime = config.parameters["runtime"].string_value or ONNXRUNTIME
    if runtime not in _ENGINE_FILES:
        raise BadRepository(
            f"model {config.name}: parameter 'runtime' must be one of {', '.join(_ENGINE_FILES)}, "
            f"not '{runtime}'"
        )
    text = any(output.name == "TEXT" for output in config.output)
    return [_ENGINE_FILES[runtime], *([_TOKENIZER] if text else [])]


def read_ensembles(configs: Mapping[str, Any]) -> tuple[Ensemble, ...]:
    """Return all ensembles, including those of adapters, from the configs of models by name."""
    instances = {
        model: sum(group.count for group in config.instance_group) or 1
        for model, config in configs.items()
    }
    limits = {
        model: _streams_per_instance(model, config.parameters["max_streams"].string_value)
        * sum(group.count for group in config.instance_group)
        for model, config in configs.items()
        if config.platform != "ensemble" and "max_streams" in config.parameters
    }
    return tuple(
        Ensemble(
            name,
            config.max_batch_size,
            min((limits[member] for member in _members(config) if member in limits), default=0),
            stages={member: instances.get(member, 1) for member in _members(config)},
            chunk_ms=int(config.parameters["chunk_ms"].string_value or 0),
            checkpoint=config.parameters["checkpoint"].string_value,
            runtime=config.parameters["runtime"].string_value or ONNXRUNTIME,
            precision=config.parameters["precision"].string_value,
            adapter=config.parameters["adapter"].string_value,
            takes_audio={tensor.name for tensor in config.input} == _AUDIO,
        )
        for name, config in configs.items()
        if config.platform == "ensemble"
    )


def _check_steps(path: Path, ensembles: tuple[Ensemble, ...], configs: Mapping[str, Any]) -> None:
    for ensemble in ensembles:
        missing = [stage for stage in ensemble.stages if stage not in configs]
        if missing:
            raise BadRepository(
                f"{ensemble.name} in {path} consists of models of which {missing[0]} is not there: "
                "export or install it again, or remove it"
            )


def _check_adapters(
    path: Path, ensembles: tuple[Ensemble, ...], configs: Mapping[str, Any]
) -> None:
    """Refuse an adapter whose stages would ignore it, so that its clients would get the base."""
    for ensemble in ensembles:
        stages = (configs[stage] for stage in ensemble.stages if stage in configs)
        takes = [stage.name for stage in stages if "adapters" in stage.parameters]
        if ensemble.adapter and not takes:
            raise BadRepository(
                f"{ensemble.name} in {path} is an adapter, and {', '.join(ensemble.stages)} were "
                "exported without adapters: export them again with --adapters, or remove it"
            )


def _members(config: Any) -> list[str]:
    return [step.model_name for step in config.ensemble_scheduling.step]


def _batch_bytes(configs: Mapping[str, Any]) -> int:
    """Return the bytes of a batch, assuming four bytes per element and free dimensions of 1.

    Tensors with larger elements are small; batches of whole utterances have no fixed size.
    """
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
