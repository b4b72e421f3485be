"""Choose the device of a stage on torch."""

from __future__ import annotations

import torch

from .errors import BadStage
from .spec import StageSpec


def open_device(spec: StageSpec) -> torch.device:
    """Return the device of the config, with torch set up for it, or raise BadStage."""
    device = device_of(spec)
    torch.set_num_threads(spec.intra_op_threads)
    # Convolutions would round float32 to 10 bits on a GPU unless told otherwise.
    torch.backends.cudnn.allow_tf32 = False
    # torch prefers cuDNN's attention on H100 and later, which compiles a kernel for each new shape
    # of a run, for up to half a second. The next choice, `efficient_attention`, is precompiled.
    torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def device_of(spec: StageSpec) -> torch.device:
    """Return the device of the config; `auto` is a GPU if torch sees one."""
    if spec.device not in ("auto", "cpu", "cuda"):
        raise BadStage(
            f"{spec.model}: parameter 'device' must be auto, cpu or cuda, not '{spec.device}'"
        )
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise BadStage(
            f"{spec.model}: parameter 'device' is cuda, but torch {torch.__version__} sees no GPU "
            "here: install a CUDA build of torch and a driver, or set device to auto or cpu"
        )
    wants_cuda = spec.device != "cpu" and torch.cuda.is_available()
    # With the index, because programs compare it with the device of their tensors: cuda != cuda:0.
    return torch.device("cuda:0" if wants_cuda else "cpu")
