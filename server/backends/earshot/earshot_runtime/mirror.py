"""Keep tensors on the device together with copies on the host."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from .spec import TensorSpec


class Mirror:
    """Tensors [rows, *dims] on the device and, page-locked if that is a GPU, on the host."""

    def __init__(self, tensors: list[TensorSpec], rows: int, device: torch.device) -> None:
        self._on_host = [
            torch.zeros(
                rows,
                *tensor.dims,
                dtype=getattr(torch, tensor.dtype.name),
                pin_memory=device.type == "cuda",
            )
            for tensor in tensors
        ]
        self._on_device = [tensor.to(device) for tensor in self._on_host]
        self.host = {
            spec.name: tensor.numpy() for spec, tensor in zip(tensors, self._on_host, strict=True)
        }

    def arrays(self, tensors: tuple[TensorSpec, ...]) -> dict[str, npt.NDArray[Any]]:
        """Return the host arrays of some of the tensors."""
        return {tensor.name: self.host[tensor.name] for tensor in tensors}

    def to_device(self, rows: int) -> list[Tensor]:
        """Copy the first rows of all tensors to the device, and return those rows."""
        for host, device in zip(self._on_host, self._on_device, strict=True):
            if device is not host:
                device[:rows].copy_(host[:rows], non_blocking=True)
        return [tensor[:rows] for tensor in self._on_device]

    def to_host(self, rows: int, values: list[Tensor]) -> None:
        """Copy values [rows, *dims] to the host."""
        for host, value in zip(self._on_host, values, strict=True):
            host[:rows].copy_(value, non_blocking=True)
