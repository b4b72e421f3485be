"""perf_analyzer and our own tools take turns on one server, with the same speech."""

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

from loadtest.machine import cpu_model, now, this_command
from loadtest.perf_analyzer import Measured, PerfAnalyzer
from loadtest.result import CapacityResult
from loadtest.server_process import ServerProcess, serving
from loadtest.speech import SAMPLE_RATE_HZ, Samples, load_recordings, write_scripts

PERF_ANALYZER = "perf_analyzer of tritonclient 2.50.0"
WARM_UP_S = 1.0
SCRIPTS = 4
"""perf_analyzer reads its input, megabytes of JSON, anew for every measurement."""

Announce = Callable[[str], None]


class ToolFailed(Exception):
    """Our own tool did not measure."""


@contextmanager
def two_tools(binary: Path, repository: Path, model: str | None) -> Generator[TwoTools]:
    """Serve ``repository`` for both tools for the length of the block.

    Args:
        model: which of its recognizers; see `earshot.connect`.
    """
    with (
        serving(repository) as server,
        tempfile.TemporaryDirectory() as folder,
        earshot.connect(server.url, model=model) as client,
    ):
        streams = [script.samples for script in write_scripts(load_recordings())[:SCRIPTS]]
        theirs = PerfAnalyzer(binary, Path(folder), server.url, client.info.ensemble)
        theirs.write_input(client.info, streams)
        yield TwoTools(server, client, theirs, streams, Path(folder))


class TwoTools:
    """Both tools, ready; make them with `two_tools`."""

    def __init__(
        self,
        server: ServerProcess,
        client: earshot.Client,
        perf_analyzer: PerfAnalyzer,
        streams: Sequence[Samples],
        folder: Path,
    ) -> None:
        self._server = server
        self._client = client
        self._perf_analyzer = perf_analyzer
        self._streams = streams
        self._folder = folder
        self._started_at = now()

    def closed_loop(
        self, streams: int, rounds: int, seconds: float, announce: Announce
    ) -> tuple[list[Measured], list[Measured]]:
        """Each of ``streams`` streams sends its next chunk when the last is answered."""
        return _in_turn(
            f"closed loop, {streams} streams",
            rounds,
            announce,
            lambda: self._perf_analyzer.closed_loop(streams, seconds),
            lambda: self._our_closed_loop(streams, seconds),
        )

    def open_loop(
        self, streams: int, rounds: int, seconds: float, announce: Announce
    ) -> tuple[list[Measured], list[Measured]]:
        """``streams`` live streams: each chunk is due when real time has it, at a random phase."""
        chunk_s = self._client.info.chunk_ms / 1000

        def theirs() -> Measured:
            due_s = [random.uniform(0, chunk_s) for _ in range(streams)]
            return self._perf_analyzer.open_loop(due_s, chunk_s, seconds)

        return _in_turn(
            f"open loop, {streams} streams",
            rounds,
            announce,
            theirs,
            lambda: self._our_open_loop(streams, seconds),
        )

    def conditions(self, seconds: float) -> dict[str, Any]:
        """What the figures hold for."""
        info = self._client.info
        return {
            "checkpoint": info.model,
            "runtime": info.runtime,
            "precision": info.precision,
            "chunk_ms": info.chunk_ms,
            "seconds_per_measurement": seconds,
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

    def _our_closed_loop(self, streams: int, seconds: float) -> Measured:
        latencies_ms: list[float] = []
        failures: list[earshot.EarshotError] = []
        began_s = time.monotonic() + WARM_UP_S

        def talk(place: int) -> None:
            try:
                while time.monotonic() < began_s + seconds:
                    samples = self._streams[place % len(self._streams)]
                    self._talk(samples, began_s, began_s + seconds, latencies_ms)
                    place += 1
            except earshot.EarshotError as error:
                failures.append(error)

        threads = [threading.Thread(target=talk, args=(place,)) for place in range(streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise ToolFailed(f"{len(failures)} of {streams} streams failed: {failures[0]}")
        return Measured.of(latencies_ms, len(latencies_ms) / seconds)

    def _talk(
        self, samples: Samples, from_s: float, until_s: float, latencies_ms: list[float]
    ) -> None:
        """One stream without pauses; keeps the latencies of what was answered in the window."""
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

    def _our_open_loop(self, streams: int, seconds: float) -> Measured:
        """The load test itself, in a process of its own, as users run it."""
        output = self._folder / "level.json"
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
        return Measured(latency.count / level.hold_s, latency.p50_ms, latency.p99_ms)


def _in_turn(
    what: str,
    rounds: int,
    announce: Announce,
    theirs: Callable[[], Measured],
    ours: Callable[[], Measured],
) -> tuple[list[Measured], list[Measured]]:
    """Round after round, so that a machine that slows down slows down both."""
    by_them: list[Measured] = []
    by_us: list[Measured] = []
    for number in range(rounds):
        by_them.append(theirs())
        announce(f"{what}, round {number + 1} of {rounds}, perf_analyzer: {by_them[-1]}")
        by_us.append(ours())
        announce(f"{what}, round {number + 1} of {rounds}, earshot:       {by_us[-1]}")
    return by_them, by_us
