"""Define the GPUs for which an engine is built: that of this machine, or a list."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.errors import UnsupportedOption
from export.options import ExportOptions
from export.tensorrt.gpu import Gpu, require_tensorrt, require_tensorrt_rtx, this_gpu
from export.tensorrt.versions import check_driver, check_version

GPUS = {
    "sm75": "T4, RTX 20",
    "sm80": "A100, A30",
    "sm86": "A10, A40, RTX 30",
    "sm89": "L4, L40S, RTX 40",
    "sm120": "RTX PRO 6000, RTX 50",
    "sm121": "DGX Spark",
}
"""Compute capabilities for which TensorRT for RTX builds engines, with some of their GPUs."""

_FIRST = {"fp32": 75, "fp16": 75, "bf16": 80, "fp8": 89}
"""The first compute capability that supports each precision."""


@dataclass(frozen=True)
class ThisGpu:
    """The GPU of this machine, for which TensorRT builds and on which it times kernels."""

    gpu: Gpu
    timing_cache: Path
    """File that is kept between builds, so that a rebuild on the same GPU takes seconds."""

    @property
    def facts(self) -> dict[str, Any]:
        """Return the entry of the manifest."""
        return {"gpu": asdict(self.gpu)}


@dataclass(frozen=True)
class NamedGpus:
    """GPUs for which TensorRT for RTX builds one engine, without access to them."""

    compute_capabilities: tuple[str, ...]
    """Keys of `GPUS`."""

    @property
    def facts(self) -> dict[str, Any]:
        """Return the entry of the manifest."""
        return {"gpus": list(self.compute_capabilities)}


Target = ThisGpu | NamedGpus


def target_of(options: ExportOptions) -> Target:
    """Return the target of the engines of an export.

    Raises:
        UnsupportedOption: this machine lacks the TensorRT of the runtime, or a suitable version,
            GPU or driver; or TensorRT for RTX does not support a named GPU.
    """
    if options.runtime == "tensorrt-rtx":
        require_tensorrt_rtx()
        check_version(options.runtime, _installed_version())
        _check_gpus(options.gpus, options.precision)
        return NamedGpus(options.gpus)
    require_tensorrt()
    check_version(options.runtime, _installed_version())
    gpu = this_gpu()
    check_driver(options.runtime, gpu.driver)
    repository = options.repository.resolve()
    return ThisGpu(gpu, repository.with_name(f".{repository.name}.timing_cache"))


def _installed_version() -> str:
    from export.tensorrt.bindings import trt

    return trt.__version__


def _check_gpus(gpus: tuple[str, ...], precision: str) -> None:
    if len(set(gpus)) != len(gpus):
        raise UnsupportedOption(f"--gpu names a GPU twice: {','.join(gpus)}")
    for gpu in gpus:
        if gpu not in GPUS:
            known = ", ".join(f"{name} ({examples})" for name, examples in GPUS.items())
            raise UnsupportedOption(
                f"TensorRT for RTX builds engines for {known}; got --gpu {gpu}. For others, such "
                "as sm90 (H100, H200), use --runtime torch, or --runtime tensorrt on such a machine"
            )
        first = _FIRST[precision]
        if int(gpu.removeprefix("sm")) < first:
            raise UnsupportedOption(
                f"--precision {precision} needs sm{first} or newer, got --gpu {gpu} "
                f"({GPUS[gpu]}); leave it out, or choose --precision fp16"
            )


def manifest_entry(runtime: str) -> str:
    """Return the name of the entry about the engines in an ensemble's manifest."""
    return runtime.replace("-", "_")
