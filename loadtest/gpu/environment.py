"""`python -m loadtest.gpu.environment OUTPUT`: check that this Python can run every step.

It imports everything that export, server and load test import, some of it only after minutes, and
runs an operation on the GPU, so that an incomplete environment is found within seconds.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from loadtest.gpu.machine import gpu_bytes
from loadtest.result.files import write_whole

MODULES = (
    # The export and the server.
    *("transformers", "tokenizers", "safetensors", "soundfile", "soxr", "onnxruntime"),
    *("pytriton", "tritonclient.grpc", "google.protobuf"),
    # The load test. Locust replaces parts of the standard library, so it comes last.
    *("earshot", "pytest", "pydantic", "jinja2", "psutil", "rapidfuzz", "locust", "hpack"),
)


def missing_modules() -> list[str]:
    """Import all modules and return those that fail, each with its error."""
    missing: list[str] = []
    for name in MODULES:
        try:
            importlib.import_module(name)
        except Exception as error:  # a library of another build may fail with anything
            missing.append(f"{name}: {error}")
    return missing


def device() -> str:
    """Return the name of the device that torch computes on, after an operation there.

    Raises:
        RuntimeError: The machine has a GPU that torch cannot use.
    """
    import torch

    if not gpu_bytes():
        return "cpu"
    torch.ones(64, 64, device="cuda").matmul(torch.ones(64, 64, device="cuda")).sum().item()
    return torch.cuda.get_device_name()


def main(output: Path) -> None:
    """Write the device to `output` as JSON; the exit code is 1 if something is missing."""
    used = device()
    missing = missing_modules()
    if missing:
        sys.exit("\n".join(["these modules cannot be imported:", *missing]))
    write_whole(output, json.dumps({"device": used}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
