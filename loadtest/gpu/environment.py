"""`python -m loadtest.gpu.environment`: check that this Python can export, serve and measure.

It imports what those commands import, some of it only after minutes, and runs an operation on the
GPU, so that an environment that is not complete is found within seconds.
"""

from __future__ import annotations

import importlib
import json
import sys

from loadtest.gpu.machine import gpu_bytes

MODULES = (
    # The export and the server.
    *("torch", "transformers", "tokenizers", "safetensors", "soundfile", "soxr", "onnxruntime"),
    *("pytriton", "tritonclient.grpc", "google.protobuf"),
    # The load test. Locust replaces parts of the standard library, so it comes last.
    *("earshot", "pytest", "pydantic", "jinja2", "psutil", "rapidfuzz", "locust"),
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


def main() -> None:
    """Print the device as JSON; the exit code is 1 if something is missing."""
    missing = missing_modules()
    if missing:
        sys.exit("\n".join(["these modules cannot be imported:", *missing]))
    print(json.dumps({"device": device()}))


if __name__ == "__main__":
    main()
