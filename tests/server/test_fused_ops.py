"""The kernels of the fused operations against the plain operations that define them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from server.backends.earshot.earshot_runtime import fused_ops

ROOT = Path(__file__).parents[2]
TOLERANCE = {torch.float32: 2e-5, torch.float16: 1e-2}
RINGS = [(1, 8), (2, 35), (4, 17), (7, 10), (14, 5)]
"""Frames of a chunk, and blocks of its ring."""

Arguments = tuple[object, ...]


def attention(frames: int, ring: int, dtype: torch.dtype, width: int = 64) -> Arguments:
    """Return arguments of `attend`: streams that have just begun, and others that wrap around."""
    heads, streams, start = 2, 4, 3
    rows = start + 2 * heads * ring + 2
    slots = torch.tensor([2, 0, 3])
    batch = len(slots)
    distances = ring * frames + 2 * frames - 1
    filled = torch.tensor([0, ring // 2, ring])
    position = torch.tensor([0, ring // 2, ring // 3])
    length = torch.tensor([frames, 1, frames])
    return (
        torch.randn(batch * frames, 4, heads, width).to(dtype),
        torch.randn(heads, batch * frames, distances + -distances % 8).to(dtype),
        torch.randn(streams * rows, frames * width).to(dtype),
        slots * rows,
        torch.stack([position, filled, length], dim=1).int(),
        start,
        frames,
        ring,
    )


def convolution(frames: int, dtype: torch.dtype, width: int = 96) -> Arguments:
    """Return arguments of `gated_convolution`; the tail is a part of a larger state."""
    batch, kernel = 3, 9
    state = torch.randn(batch, (kernel - 1) * width + 11).to(dtype)
    return (
        torch.randn(batch * frames, 2 * width).to(dtype),
        state[:, 11:],
        (torch.randn(kernel, width) / 3).to(dtype),
        torch.randn(width).to(dtype),
        torch.randn(width),
        torch.randn(width),
        1e-5,
    )


def residual(norms: int, dtype: torch.dtype, width: int = 100) -> Arguments:
    """Return arguments of `add_and_norm`."""
    weights = [torch.randn(width) for _ in range(2 * norms)]
    return 3 * torch.randn(6, width), torch.randn(6, width).to(dtype), weights, 1e-5


def check_all(device: str) -> None:
    """Compare the kernels with the plain operations in both precisions and in all shapes."""
    from server.backends.earshot.earshot_runtime import fused_kernels

    torch.manual_seed(0)
    for dtype in TOLERANCE:
        for frames, ring in RINGS:
            _compare(fused_ops.attend, fused_kernels.attend, attention(frames, ring, dtype), device)
            _compare(
                fused_ops.gated_convolution,
                fused_kernels.gated_convolution,
                convolution(frames, dtype),
                device,
            )
        # A head that is no power of two.
        _compare(fused_ops.attend, fused_kernels.attend, attention(7, 4, dtype, width=48), device)
        for norms in (1, 2):
            _compare(
                fused_ops.add_and_norm, fused_kernels.add_and_norm, residual(norms, dtype), device
            )


def _compare(
    operation: Callable[..., object],
    kernel: Callable[..., object],
    arguments: Arguments,
    device: str,
) -> None:
    expected = operation(*arguments)
    got = kernel(*(_to(argument, device) for argument in arguments))
    for mine, theirs in zip(_tensors(got), _tensors(expected), strict=True):
        tolerance = TOLERANCE.get(theirs.dtype, 0.0)
        torch.testing.assert_close(mine.cpu(), theirs, rtol=tolerance, atol=tolerance)


def _tensors(value: object) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)  # type: ignore[return-value]


def _to(argument: object, device: str) -> object:
    if isinstance(argument, Tensor):
        return argument.to(device)
    return [part.to(device) for part in argument] if isinstance(argument, list) else argument


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_kernels_match_on_a_gpu() -> None:
    check_all("cuda")


@pytest.mark.skipif(find_spec("triton") is None, reason="triton (the compiler) is not installed")
def test_kernels_match_in_the_interpreter() -> None:
    """Triton's interpreter runs kernels on the CPU; it is chosen when triton is imported."""
    subprocess.run(
        [sys.executable, "-c", "from tests.server import test_fused_ops as t; t.check_all('cpu')"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        timeout=300,
    )


def test_operations_have_shapes_without_data() -> None:
    """Programs are traced and checked on tensors without data."""
    arguments = [
        *((fused_ops.attend, attention(7, 4, torch.float16)),),
        *((fused_ops.gated_convolution, convolution(7, torch.float16)),),
        *((fused_ops.add_and_norm, residual(2, torch.float16)),),
    ]
    for operation, real in arguments:
        expected = _tensors(operation(*real))
        got = _tensors(operation(*(_to(argument, "meta") for argument in real)))
        assert [(t.shape, t.dtype) for t in got] == [(t.shape, t.dtype) for t in expected]
