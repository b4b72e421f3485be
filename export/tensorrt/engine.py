"""Build and run engines with TensorRT, or build them for other GPUs with TensorRT for RTX.

Networks are always strongly typed: only the graph determines the precision.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.errors import BuildFailed, GraphRefused
from export.formats.onnx_stage import Arrays
from export.offline.chain import RunOfflineStage
from export.spec import StageSpec
from export.tensorrt.bindings import IS_RTX, trt
from export.tensorrt.flat import StatefulStage
from export.tensorrt.profiles import Profile
from export.tensorrt.targets import NamedGpus, Target, ThisGpu

CHUNK_WORKSPACE_BYTES = 2**30
"""Largest scratch memory of a chunk engine; more would be missing for the states of streams."""
UTTERANCE_WORKSPACE_BYTES = 2**32
"""The same for whole utterances: the attention scores of 32 times 30 s take more than 1 GiB."""

_TORCH_DTYPES = {
    trt.DataType.FLOAT: torch.float32,
    trt.DataType.HALF: torch.float16,
    trt.DataType.BF16: torch.bfloat16,
    trt.DataType.INT32: torch.int32,
}
_KEPT = (trt.ILogger.Severity.WARNING, trt.ILogger.Severity.ERROR)
_SUFFIX = ".engine" if IS_RTX else ".plan"


@dataclass(frozen=True)
class EngineFacts:
    """Entries of the manifest about one engine."""

    layers: int
    """Layers of the parsed network, before fusion."""
    seconds: float
    plan_bytes: int
    device_memory_bytes: int | None
    """Activations of one execution context; None if there is no GPU to load the engine."""


class _Log(trt.ILogger):
    """Keeps TensorRT's warnings and errors for the message of a failure."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Keep a message of TensorRT, which calls this method."""
        if severity in _KEPT or severity == trt.ILogger.Severity.INTERNAL_ERROR:
            self.lines.append(msg)


_LOG = _Log()
"""A single logger for all builds: TensorRT uses the first logger of a process and ignores
others."""


def tensorrt_version() -> str:
    """Return the version that is needed to load a plan built here, for example 11.4.0.106."""
    return trt.__version__


def build_engine(
    onnx: Path, spec: StageSpec, profiles: Sequence[Profile], target: Target
) -> EngineFacts:
    """Build the engine beside an ONNX file of a model.

    Args:
        onnx: the file, which for a flat or an offline stage has passed `check_graph`.
        profiles: the shapes with which it will run; for Triton in the order of its config.
        target: the named GPUs of TensorRT for RTX, else the GPU of this machine.

    Raises:
        GraphRefused: the parser refuses a node; the message holds its reason.
        BuildFailed: the message holds TensorRT's log.
    """
    began = time.monotonic()
    _LOG.lines.clear()
    builder = trt.Builder(_LOG)
    network = builder.create_network()
    # Kept until the engine is built, because the weights are in the parser's memory.
    parser = trt.OnnxParser(network, _LOG)
    _parse(parser, onnx, spec)
    config = _config(builder, spec, target)
    for profile in profiles:
        config.add_optimization_profile(_profile(builder, profile))
    if len(profiles) == 1:
        # Results must not depend on the other streams in the batch. With several profiles, as for
        # whole utterances, TensorRT refuses the flag.
        config.set_flag(trt.BuilderFlag.DISTRIBUTIVE_INDEPENDENCE)
    plan: Any = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildFailed(f"{spec.name}: TensorRT built no engine\n{_end_of_log()}")
    _write_atomically(onnx.with_suffix(_SUFFIX), memoryview(plan))
    if isinstance(target, ThisGpu):
        # Any, because the signatures of TensorRT's bindings do not declare buffers and sequences.
        timings: Any = config.get_timing_cache().serialize()
        _write_atomically(target.timing_cache, memoryview(timings))
    return EngineFacts(
        layers=network.num_layers,
        seconds=round(time.monotonic() - began, 1),
        plan_bytes=plan.nbytes,
        device_memory_bytes=_device_memory(plan) if isinstance(target, ThisGpu) else None,
    )


def check_parses(onnx: Path, spec: StageSpec) -> int:
    """Parse the ONNX file of a stage without building it, and return the number of layers.

    Raises:
        GraphRefused: the parser refuses a node; the message holds its reason.
    """
    network = trt.Builder(_LOG).create_network()
    _parse(trt.OnnxParser(network, _LOG), onnx, spec)
    return network.num_layers


def _parse(parser: trt.OnnxParser, onnx: Path, spec: StageSpec) -> None:
    if parser.parse_from_file(str(onnx)):
        return
    errors: list[Any] = [parser.get_error(index) for index in range(parser.num_errors)]
    reasons = "\n".join(f"  {error}" for error in errors)
    raise GraphRefused(f"{spec.name}: TensorRT's parser refuses {onnx}:\n{reasons}")


def _config(builder: trt.Builder, spec: StageSpec, target: Target) -> trt.IBuilderConfig:
    config = builder.create_builder_config()
    workspace = CHUNK_WORKSPACE_BYTES if spec.states else UTTERANCE_WORKSPACE_BYTES
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    # TF32 would cost log-mel, and the float32 parts of a half graph, 13 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    if isinstance(target, NamedGpus):
        _name_gpus(config, target)
        return config
    known = target.timing_cache.read_bytes() if target.timing_cache.is_file() else b""
    # False: a cache from another GPU or TensorRT is ignored instead of being an error.
    config.set_timing_cache(config.create_timing_cache(known), False)
    return config


def _name_gpus(config: Any, target: NamedGpus) -> None:
    """Build for the GPUs of `target`; typed Any because only TensorRT for RTX has these methods."""
    rtx: Any = trt
    config.num_compute_capabilities = len(target.compute_capabilities)
    for index, name in enumerate(target.compute_capabilities):
        config.set_compute_capability(rtx.ComputeCapability.__members__[name.upper()], index)


def _device_memory(plan: Any) -> int:
    return trt.Runtime(_LOG).deserialize_cuda_engine(plan).device_memory_size_v2


def _profile(builder: trt.Builder, shapes: Profile) -> trt.IOptimizationProfile:
    profile = builder.create_optimization_profile()
    for name in shapes.names:
        profile.set_shape(name, *shapes.shapes(name))
    return profile


def _write_atomically(path: Path, content: memoryview) -> None:
    """Replace a file so that readers see either the old or the complete new one."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def _end_of_log() -> str:
    return "\n".join(f"  {line}" for line in _LOG.lines[-20:])


def open_engine(path: Path, spec: StageSpec, streams: int) -> StatefulStage:
    """Open the plan beside the ONNX file `path` on the GPU, as a stage that keeps its state.

    Raises:
        BuildFailed: the plan was built with another TensorRT or GPU.
    """
    inputs = [*(tensor.name for tensor in spec.inputs), "STATE"]
    outputs = [*(tensor.name for tensor in spec.outputs), "NEXT_STATE"]
    execute = _runner(_loaded(path), spec.name, inputs, outputs)

    def run(values: Sequence[NDArray[Any]], state: NDArray[Any]) -> Arrays:
        return execute(0, (*values, state))

    return StatefulStage(run, spec, streams)


def open_offline_engine(path: Path, spec: StageSpec, lengths: Sequence[int]) -> RunOfflineStage:
    """Open the plan beside the ONNX file `path` on the GPU; it has a profile for each of `lengths`.

    Raises:
        BuildFailed: the plan was built with another TensorRT or GPU.
    """
    inputs, outputs = ([tensor.name for tensor in side] for side in (spec.inputs, spec.outputs))
    execute = _runner(_loaded(path), spec.name, inputs, outputs)

    def run(*values: NDArray[Any]) -> Arrays:
        return execute(lengths.index(values[0].shape[1]), values)

    return run


def _loaded(path: Path) -> trt.ICudaEngine:
    """Load the plan beside the ONNX file `path`."""
    _LOG.lines.clear()
    plan = path.with_suffix(_SUFFIX)
    engine: Any = trt.Runtime(_LOG).deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise BuildFailed(f"{plan} does not load here\n{_end_of_log()}")
    return engine


def _runner(
    engine: trt.ICudaEngine, name_of_stage: str, inputs: Sequence[str], outputs: Sequence[str]
) -> Callable[[int, Sequence[NDArray[Any]]], Arrays]:
    """Return a function that runs the engine with the index of a profile and values of `inputs`."""
    context = engine.create_execution_context()
    stream = torch.cuda.Stream()

    def run(profile: int, values: Sequence[NDArray[Any]]) -> Arrays:
        on_gpu: dict[str, torch.Tensor] = {}
        with torch.cuda.stream(stream):
            if not context.set_optimization_profile_async(profile, stream.cuda_stream):
                raise BuildFailed(f"the engine of {name_of_stage} has no profile {profile}")
            for name, value in zip(inputs, values, strict=True):
                dtype = _TORCH_DTYPES[engine.get_tensor_dtype(name)]
                on_gpu[name] = torch.from_numpy(np.ascontiguousarray(value)).cuda().to(dtype)
                _bind_input(context, name, on_gpu[name])
            for name in outputs:
                shape: Any = context.get_tensor_shape(name)
                dtype = _TORCH_DTYPES[engine.get_tensor_dtype(name)]
                on_gpu[name] = torch.empty(tuple(shape), dtype=dtype, device="cuda")
                context.set_tensor_address(name, on_gpu[name].data_ptr())
            if not context.execute_async_v3(stream.cuda_stream):
                raise BuildFailed(f"the engine of {name_of_stage} did not run")
            stream.synchronize()
        return [_to_numpy(on_gpu[name]) for name in outputs]

    return run


def _bind_input(context: trt.IExecutionContext, name: str, tensor: torch.Tensor) -> None:
    context.set_input_shape(name, tuple(tensor.shape))
    context.set_tensor_address(name, tensor.data_ptr())


def _to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return (tensor.float() if half else tensor).cpu().numpy()
