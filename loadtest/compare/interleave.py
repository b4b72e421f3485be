"""Interleave measurements of perf_analyzer and of our own tools on one server."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import earshot
import numpy as np
import psutil

from loadtest.audio.recordings import SAMPLE_RATE_HZ, Audio, load_clips
from loadtest.audio.scripts import write_scripts
from loadtest.compare.perf_analyzer import LoopFigures, PerfAnalyzer
from loadtest.options import MIN_STREAM_S, RECORDINGS, AgreementOptions
from loadtest.result.document import CapacityResult
from loadtest.result.machine import cpu_model, now, this_command
from loadtest.service.server import ServerProcess, serving

PERF_ANALYZER = "perf_analyzer of tritonclient 2.50.0"
WARM_UP_S = 1.0
SCRIPTS = 4
"""Only a few, because perf_analyzer reads its input, megabytes of JSON, for every measurement."""

Announce = Callable[[str], None]


class ToolFailed(Exception):
    """Our own tool failed to measure."""


@contextmanager
def serving_both_tools(options: AgreementOptions) -> Generator[InterleavedTools]:
    """Serve the repository to both tools for the length of the block."""
    with (
        serving(options.repository) as server,
        tempfile.TemporaryDirectory() as folder,
        earshot.connect(server.url, model=options.model) as client,
    ):
        scripts = write_scripts(load_clips(RECORDINGS), MIN_STREAM_S)
        streams = [script.samples for script in scripts[:SCRIPTS]]
        theirs = PerfAnalyzer(options.binary, Path(folder), server.url, client.info.ensemble)
        theirs.write_input(client.info, streams)
        yield InterleavedTools(options, server, client, theirs, streams)


class InterleavedTools:
    """Both tools, ready to take turns; made by `serving_both_tools`."""

    def __init__(
        self,
        options: AgreementOptions,
        server: ServerProcess,
        client: earshot.Client,
        perf_analyzer: PerfAnalyzer,
        streams: Sequence[Audio],
    ) -> None:
        self._options = options
        self._server = server
        self._client = client
        self._perf_analyzer = perf_analyzer
        self._streams = streams
        self._started_at = now()

    def closed_loop(
        self, streams: int, announce: Announce
    ) -> tuple[list[LoopFigures], list[LoopFigures]]:
        """Measure `streams` streams that send the next chunk when the last one is answered."""
        seconds = self._options.seconds
        return _interleave(
            f"closed loop, {streams} streams",
            self._options.rounds,
            announce,
            lambda: self._perf_analyzer.closed_loop(streams, seconds),
            lambda: self._our_closed_loop(streams, seconds),
        )

    def open_loop(
        self, streams: int, announce: Announce
    ) -> tuple[list[LoopFigures], list[LoopFigures]]:
        """Measure `streams` live streams, whose chunks are due in real time at random phases."""
        seconds = self._options.seconds
        chunk_s = self._client.info.chunk_ms / 1000

        def theirs() -> LoopFigures:
            due_s = [random.uniform(0, chunk_s) for _ in range(streams)]
            return self._perf_analyzer.open_loop(due_s, chunk_s, seconds)

        return _interleave(
            f"open loop, {streams} streams",
            self._options.rounds,
            announce,
            theirs,
            lambda: self._our_open_loop(streams, seconds),
        )

    def conditions(self) -> dict[str, Any]:
        """Return the conditions of the figures."""
        info = self._client.info
        return {
            "checkpoint": info.model,
            "runtime": info.runtime,
            "precision": info.precision,
            "chunk_ms": info.chunk_ms,
            "seconds_per_measurement": self._options.seconds,
            "cpu_model": cpu_model(),
            "cpu_cores": psutil.cpu_count(),
            "versions": {
                "server": info.server,
                "perf_analyzer": PERF_ANALYZER,
                "onnxruntime": version("onnxruntime"),
                "locust": version("locust"),
            },
            "command": this_command(),
            "started_at": self._started_at,
        }

    def _our_closed_loop(self, streams: int, seconds: float) -> LoopFigures:
        latencies_ms: list[float] = []
        failures: list[earshot.EarshotError] = []
        began_s = time.monotonic() + WARM_UP_S

        def run_streams(script: int) -> None:
            try:
                while time.monotonic() < began_s + seconds:
                    samples = self._streams[script % len(self._streams)]
                    self._run_stream(samples, began_s, began_s + seconds, latencies_ms)
                    script += 1
            except earshot.EarshotError as error:
                failures.append(error)

        threads = [threading.Thread(target=run_streams, args=(index,)) for index in range(streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise ToolFailed(f"{len(failures)} of {streams} streams failed: {failures[0]}")
        return LoopFigures.of(latencies_ms, len(latencies_ms) / seconds)

    def _run_stream(
        self, samples: Audio, from_s: float, until_s: float, latencies_ms: list[float]
    ) -> None:
        """Run one stream without pauses; keep the latencies of chunks answered in the window."""
        info = self._client.info
        cuts = range(info.chunk_samples - info.lead_samples, len(samples), info.chunk_samples)
        *pieces, rest = np.split(samples, cuts)
        with self._client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
            for piece in [*pieces, None]:
                if piece is None:
                    stream.send(rest)  # does not fill a chunk, so it goes out with the end
                sent_s = time.monotonic()
                [result] = stream.end() if piece is None else stream.send(piece)
                if from_s <= result.received_s < until_s:
                    latencies_ms.append(1000 * (result.received_s - sent_s))
                elif result.received_s >= until_s:
                    return

    def _our_open_loop(self, streams: int, seconds: float) -> LoopFigures:
        """Run the load test in a process of its own, as users do."""
        with tempfile.TemporaryDirectory() as folder:
            return self._hold(streams, seconds, Path(folder) / "level.json")

    def _hold(self, streams: int, seconds: float, output: Path) -> LoopFigures:
        command = [sys.executable, "-m", "loadtest", "hold", "--streams", str(streams)]
        command += ["--hold-s", str(seconds), "--url", self._server.url]
        command += ["--metrics-url", self._server.metrics_url, "--output", str(output)]
        if name := self._client.info.name:
            command += ["--model", name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ToolFailed(f"loadtest hold ended with {done.returncode}: {done.stderr.strip()}")
        level = CapacityResult.from_json(output).levels[-1]
        latency = level.chunk_latency
        return LoopFigures(latency.count / level.hold_s, latency.p50_ms, latency.p99_ms)


def _interleave(
    what: str,
    rounds: int,
    announce: Announce,
    theirs: Callable[[], LoopFigures],
    ours: Callable[[], LoopFigures],
) -> tuple[list[LoopFigures], list[LoopFigures]]:
    """Run both tools in turn, round after round, so that a slow machine slows down both."""
    by_them: list[LoopFigures] = []
    by_us: list[LoopFigures] = []
    for number in range(rounds):
        by_them.append(theirs())
        announce(f"{what}, round {number + 1} of {rounds}, perf_analyzer: {by_them[-1]}")
        by_us.append(ours())
        announce(f"{what}, round {number + 1} of {rounds}, earshot:       {by_us[-1]}")
    return by_them, by_us
