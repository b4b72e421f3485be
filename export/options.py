"""Options of an export: the ones that exist, and which of them go together."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from export.errors import UnsupportedOption

Report = Callable[[str], None]
"""Is told the name of each step as it begins."""

LAYOUTS = ("stages", "fused")
"""One model for each stage, or the three in one: fewer processes for a chunk to go through."""

PRECISIONS = {
    "onnxruntime": ("fp32", "int8"),
    "tensorrt": ("fp32", "fp16", "bf16", "fp8"),
    "torch": ("fp32", "fp16", "bf16"),
}
"""What each runtime computes in."""

_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
UNNAMED = "default"
"""What the command line of the client calls the models that have no name."""


def check_name(name: str) -> None:
    """Refuse a name that Triton, a folder or the client could not tell from another.

    Raises:
        UnsupportedOption: it says which names there may be.
    """
    if name == UNNAMED or (name and not _NAME.fullmatch(name)):
        raise UnsupportedOption(
            f"--name must be lower-case letters and digits, joined by single underscores, and not "
            f"'{UNNAMED}': got '{name}', try something like 'clinic_v2'"
        )


def check_precision(runtime: str, precision: str) -> None:
    """Refuse a precision that the runtime has not.

    Raises:
        UnsupportedOption: it says which ones it has.
    """
    known = PRECISIONS[runtime]
    if precision not in known:
        raise UnsupportedOption(
            f"runtime {runtime} has no precision {precision}; choose one of {', '.join(known)}"
        )


@dataclass(frozen=True)
class Serving:
    """How the models are served: the knobs of the sequence batcher and of the bundled backend."""

    max_streams: int = 1024
    """Streams that the server accepts; the next one is refused."""
    max_batch_size: int = 64
    sequence_idle_ms: int = 30_000
    """A stream that sends nothing for so long is closed."""
    encoder_instances: int = 2
    """Processes that run the encoder, one core each: best throughput per core on CPUs. Processes
    of the fused recognizer as well."""


@dataclass(frozen=True)
class OfflineServing:
    """How the models are served: the knobs of the dynamic batcher."""

    max_batch_size: int = 32
    encoder_instances: int = 2
    """Processes that run the encoder, one core each: best throughput per core on CPUs."""
