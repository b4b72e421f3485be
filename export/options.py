"""The options of an export, as one value that is validated when it is created."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from export.audio import frames_per_chunk
from export.errors import UnsupportedOption

Report = Callable[[str], None]
"""Called with the name of each step as it begins."""

LAYOUTS = ("stages", "fused")
"""One model per stage, or one for all three, so that a chunk passes through fewer processes."""

PRECISIONS = {
    "onnxruntime": ("fp32", "int8"),
    "tensorrt": ("fp32", "fp16", "bf16", "fp8"),
    "tensorrt-rtx": ("fp32", "fp16", "bf16"),
    "torch": ("fp32", "fp16", "bf16"),
}
"""Precisions that each runtime supports."""

SHARED_ENGINES = ("torch", "tensorrt-rtx")
"""Runtimes of the bundled backend on a GPU, where all processes of a model share one engine."""

GPUS = ("sm80", "sm86", "sm89", "sm120")
"""Compute capabilities for which `tensorrt-rtx` builds engines by default."""

_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
UNNAMED = "default"
"""The name under which the client's command line shows models without a name."""


@dataclass(frozen=True)
class Serving:
    """Settings of the sequence batcher and of the bundled backend."""

    max_streams: int = 1024
    """Streams that the server accepts; the next one is refused."""
    max_batch_size: int = 64
    sequence_idle_ms: int = 30_000
    """Time without a chunk after which a stream is closed."""
    encoder_instances: int = 2
    """Processes of the encoder or of the fused recognizer. On CPUs, one core for each gives the
    best throughput per core."""
    own_engines: bool = False
    """Give each of these processes its own engine on a GPU, instead of one for all."""
    adapters: int = 0
    """Adapters that a process holds in memory at once; 0 if the models take none."""
    adapter_rank: int = 16
    """Largest rank of an adapter; smaller ranks cost as much."""


@dataclass(frozen=True)
class OfflineServing:
    """Settings of the dynamic batcher."""

    max_batch_size: int = 32
    encoder_instances: int = 2
    """Processes of the encoder, or of the fused recognizer. On CPUs, one core for each gives the
    best throughput per core."""
    adapters: int = 0
    """See `Serving`, also for `adapter_rank`."""
    adapter_rank: int = 16


def offline_serving(runtime: str, encoder_instances: int | None) -> OfflineServing:
    """Return the settings for a runtime: a GPU takes larger batches than a CPU core.

    Args:
        encoder_instances: None for one on a GPU, or for the default number on a CPU.
    """
    if runtime == "torch":
        return OfflineServing(256, encoder_instances or 1)
    return OfflineServing(encoder_instances=encoder_instances or OfflineServing.encoder_instances)


@dataclass(frozen=True)
class ExportOptions:
    """Everything that a user chooses for one export.

    Raises:
        UnsupportedOption: two options contradict each other, or a value is not supported.
    """

    checkpoint: str
    """A local folder in the format of `transformers`, or a hub id."""
    repository: Path = Path("model_repository")
    """The model repository to install into."""
    mode: str | None = None
    """`streaming`, `offline` or `both`; None for streaming if the checkpoint supports it, else
    offline."""
    chunk_ms: int = 560
    runtime: str = "onnxruntime"
    """A key of `PRECISIONS`."""
    precision: str = "fp32"
    layout: str | None = None
    """Layout of live streams, one of `LAYOUTS`; None for stages."""
    gpus: tuple[str, ...] = GPUS
    """For `tensorrt-rtx` only: compute capabilities of the GPUs for which one engine is built."""
    name: str = ""
    """Prefix of the models' names if a repository holds several recognizers."""
    serving: Serving = Serving()
    offline_serving: OfflineServing = OfflineServing()
    compare: bool = True
    """True to compare the models with `transformers`; else the manifest records no comparison."""

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_precision(self.runtime, self.precision)
        frames_per_chunk(self.chunk_ms)
        if self.gpus != GPUS and self.runtime != "tensorrt-rtx":
            raise UnsupportedOption(f"--gpu is for --runtime tensorrt-rtx, not for {self.runtime}")
        if self.layout == "fused" and self.runtime == "tensorrt":
            raise UnsupportedOption("--layout fused is for the other runtimes, not for tensorrt")
        if self.layout == "fused" and self.precision == "int8":
            raise UnsupportedOption(
                "int8 is for an encoder in a model of its own, which the fused layout does not "
                "have; use --layout stages"
            )
        if self.serving.own_engines and self.runtime not in SHARED_ENGINES:
            raise UnsupportedOption(
                f"--own-engines is for {' and '.join(SHARED_ENGINES)}, where processes share an "
                f"engine by default, not for {self.runtime}; leave it out"
            )
        if self.serving.adapters:
            self._check_adapters()

    def _check_adapters(self) -> None:
        if self.runtime.startswith("tensorrt"):
            raise UnsupportedOption(
                f"--adapters is for onnxruntime and torch: an engine of {self.runtime} has the "
                "weights of one model; export each custom model as a checkpoint of its own"
            )
        if self.precision == "int8":
            raise UnsupportedOption(
                "--adapters needs the weights that the adapters were trained on, not int8 ones; "
                "leave out --precision"
            )

    @property
    def frames(self) -> int:
        """Return T, the number of encoder frames per chunk."""
        return frames_per_chunk(self.chunk_ms)

    @property
    def of_whole_files(self) -> ExportOptions:
        """Return the options for whole files; with TensorRT for RTX, those for ONNX Runtime.

        The bundled backend opens engines of TensorRT for RTX for live streams only.
        """
        if self.runtime != "tensorrt-rtx":
            return self
        # Options for live streams and their engines could contradict the other runtime.
        return replace(
            self,
            runtime="onnxruntime",
            precision="fp32",
            layout=None,
            gpus=GPUS,
            serving=Serving(),
        )


def check_name(name: str) -> None:
    """Refuse a name that Triton, the file system or the client could confuse with another one."""
    if name == UNNAMED or (name and not _NAME.fullmatch(name)):
        raise UnsupportedOption(
            f"--name must be lower-case letters and digits, joined by single underscores, and not "
            f"'{UNNAMED}': got '{name}', try something like 'clinic_v2'"
        )


def _check_precision(runtime: str, precision: str) -> None:
    supported = PRECISIONS[runtime]
    if precision not in supported:
        raise UnsupportedOption(
            f"runtime {runtime} has no precision {precision}; choose one of {', '.join(supported)}"
        )
