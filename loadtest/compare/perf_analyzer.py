"""Run NVIDIA's `perf_analyzer` on the same speech, and read the raw samples that it exports.

The manylinux wheels of `tritonclient` up to 2.50 contain the binary; the wheel of the embedded
Triton contains the two libraries that it needs, under other names.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import earshot
import numpy as np

from loadtest.audio.recordings import Audio

WINDOWS = 3
"""The tool considers a measurement stable when this many windows differ little."""
ANY_DIFFERENCE = "1000"
"""Allowed difference in percent: unstable windows count as well, and all of them are evaluated
here."""
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}


class PerfAnalyzerFailed(Exception):
    """The tool did not run, or did not finish."""


@dataclass(frozen=True)
class LoopFigures:
    """Throughput and latency that one tool measured in one run."""

    chunks_per_s: float
    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        latency = f"p50 {self.p50_ms:5.1f} ms, p99 {self.p99_ms:5.1f} ms"
        return f"{self.chunks_per_s:6.1f} chunks/s, {latency}"

    @classmethod
    def of(cls, latencies_ms: Sequence[float], chunks_per_s: float) -> LoopFigures:
        """Compute the figures from raw samples."""
        p50_ms, p99_ms = np.percentile(latencies_ms, (50, 99))
        return cls(chunks_per_s, float(p50_ms), float(p99_ms))


class PerfAnalyzer:
    """The tool, with its libraries and input in `folder`, for requests to the model `ensemble`."""

    def __init__(self, binary: Path, folder: Path, url: str, ensemble: str) -> None:
        self._binary = binary.resolve()
        self._folder = folder
        self._url = url
        self._ensemble = ensemble
        self._runs = 0
        _link_libraries(folder)

    def write_input(self, info: earshot.ServerInfo, streams: Sequence[Audio]) -> None:
        """Write `streams` as input of the tool, cut into the chunks that the client would send."""
        data = [_requests(info, samples) for samples in streams]
        (self._folder / "input.json").write_text(json.dumps({"data": data}))

    def closed_loop(self, streams: int, seconds: float) -> LoopFigures:
        """Measure `streams` streams, each with one chunk in flight at every moment."""
        return self._run(seconds, "--concurrency-range", str(streams))

    def open_loop(self, due_s: Sequence[float], period_s: float, seconds: float) -> LoopFigures:
        """Measure one stream for each of `due_s`, with a chunk due at that time in every period."""
        gaps_s = np.diff([*sorted(due_s), min(due_s) + period_s])
        intervals = self._folder / "intervals.txt"
        intervals.write_text("".join(f"{max(1, round(gap_s * 1e6))}\n" for gap_s in gaps_s))
        sequences = ("--num-of-sequences", str(len(due_s)), "--serial-sequences")
        return self._run(seconds, "--request-intervals", str(intervals), *sequences)

    def _run(self, seconds: float, *load: str) -> LoopFigures:
        self._runs += 1
        export = self._folder / f"run_{self._runs}.json"
        command = [str(self._binary), "-m", self._ensemble, "-u", self._url, "-i", "grpc", *load]
        command += ["--input-data", str(self._folder / "input.json")]
        command += ["-p", str(round(1000 * seconds / WINDOWS)), "-r", str(WINDOWS)]
        command += ["-s", ANY_DIFFERENCE, "--profile-export-file", str(export)]
        path = os.pathsep.join([str(self._folder), os.environ.get("LD_LIBRARY_PATH", "")])
        try:
            done = subprocess.run(
                command,
                env={**os.environ, "LD_LIBRARY_PATH": path},
                capture_output=True,
                text=True,
                timeout=10 * seconds + 60,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PerfAnalyzerFailed(f"perf_analyzer did not run: {error}") from error
        if done.returncode or not export.exists():
            output = (done.stderr.strip() or done.stdout.strip())[:500]
            raise PerfAnalyzerFailed(f"perf_analyzer ended with {done.returncode}: {output}")
        return read_export(json.loads(export.read_text()))


def read_export(export: Any) -> LoopFigures:
    """Compute the figures from a `--profile-export-file`, which lists all requests in nanoseconds.

    Raises:
        PerfAnalyzerFailed: No request was answered.
    """
    [experiment] = export["experiments"]
    latencies_ms = [
        (request["response_timestamps"][-1] - request["timestamp"]) / 1e6
        for request in experiment["requests"]
        if request["response_timestamps"]
    ]
    if not latencies_ms:
        raise PerfAnalyzerFailed("perf_analyzer got no answer at all")
    windows = experiment["window_boundaries"]
    return LoopFigures.of(latencies_ms, 1e9 * len(latencies_ms) / (windows[-1] - windows[0]))


def _requests(info: earshot.ServerInfo, samples: Audio) -> list[dict[str, Any]]:
    """Return the requests of a stream: the lead, the audio, and zeros up to a whole chunk."""
    size = info.chunk_samples
    lead = np.zeros(info.lead_samples, dtype=np.float32)
    audio = np.concatenate([lead, samples])
    padded = np.pad(audio, (0, -len(audio) % size)).astype("<f4").reshape(-1, size)
    return [
        {
            "AUDIO": {"b64": base64.b64encode(chunk.tobytes()).decode(), "shape": [size]},
            "AUDIO_LENGTH": {"content": [min(size, len(audio) - index * size)], "shape": [1]},
        }
        for index, chunk in enumerate(padded)
    ]


def _link_libraries(folder: Path) -> None:
    wheel = Path(str(distribution("nvidia-pytriton").locate_file("nvidia_pytriton.libs")))
    for name, pattern in LIBRARIES.items():
        for library in wheel.glob(pattern):
            (folder / name).symlink_to(library)
