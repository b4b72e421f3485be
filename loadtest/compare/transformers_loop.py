"""Transcribe whole files with `transformers` in a loop on the same cores, for comparison.

Files are sorted by length, so that batches contain as little padding as possible; features,
generation and decoding to text are counted, as the service does them, too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.audio.recordings import SAMPLE_RATE_HZ, Audio


@dataclass(frozen=True)
class OriginalRun:
    """One pass of the original model over all files."""

    batch: int
    threads: int
    cpu_s: float
    wall_s: float


def run_original(
    checkpoint: Path, files: Sequence[Audio], batches: Sequence[int], threads: Sequence[int]
) -> list[OriginalRun]:
    """Transcribe `files` (samples [N], 16 kHz) once with each batch size and thread count."""
    # The other load tests do not need torch.
    import torch

    from export.checkpoint import load_checkpoint
    from export.offline.reference import lookahead_of

    loaded = load_checkpoint(str(checkpoint))
    options = {"num_lookahead_tokens": lookahead_of(loaded)} if loaded.streams else {}
    ordered = sorted(files, key=len)
    runs: list[OriginalRun] = []
    for count in threads:
        torch.set_num_threads(count)
        for batch in batches:
            _transcribe(loaded, ordered[-batch:], options)
            began, used = time.monotonic(), time.process_time()
            for start in range(0, len(ordered), batch):
                _transcribe(loaded, ordered[start : start + batch], options)
            cpu_s, wall_s = time.process_time() - used, time.monotonic() - began
            runs.append(OriginalRun(batch, count, cpu_s, wall_s))
    return runs


def _transcribe(loaded: Any, files: Sequence[Audio], options: dict[str, int]) -> list[str]:
    import torch

    features = loaded.processor.feature_extractor(
        list(files), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt"
    )
    inputs = {
        "input_features": features.input_features,
        "attention_mask": features.attention_mask,
        **options,
    }
    with torch.inference_mode():
        generated = loaded.model.generate(**inputs)
    sequences = getattr(generated, "sequences", generated)
    return loaded.processor.batch_decode(sequences, skip_special_tokens=True)
