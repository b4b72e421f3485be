"""Measure a server with live streams that have adapters, and with the same streams without."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tritonclient.grpc.aio as triton

from loadtest.adapters.document import SCHEMA, AdaptersResult, Changes, Level
from loadtest.audio.recordings import SAMPLE_RATE_HZ, Audio, load_clips
from loadtest.audio.scripts import load_speech
from loadtest.capacity.conditions import conditions
from loadtest.live.check import latency_of
from loadtest.live.streams import live_streams
from loadtest.options import LoadOptions
from loadtest.service.connection import connect, connect_async
from loadtest.service.server import ServerProcess, serving

_WARM_UP_S = 5.0
_ENSEMBLE = "asr_streaming"

Say = Callable[[str], None]


class NoAdapters(Exception):
    """The repository was exported without adapters."""


@dataclass(frozen=True)
class Plan:
    """The size of the measurement."""

    streams: int
    """Live streams of each level."""
    counts: tuple[int, ...]
    """Adapters of the levels; a level without any precedes and follows them."""
    hold_s: float
    """Length of each level."""
    retired: int
    """Adapters to retire while streams run."""

    @property
    def most(self) -> int:
        """Return the number of adapters to install."""
        return max(self.counts)


def measure(options: LoadOptions, plan: Plan, say: Say) -> AdaptersResult:
    """Measure the recognizer of `options` in a copy of its repository, with random adapters.

    Raises:
        NoAdapters: It takes none.
        EarshotError: The server cannot be reached.
        ServerEnded: The server did not become ready.
    """
    assert options.repository is not None
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        shutil.copytree(options.repository, repository)
        with serving(repository, "--model-control") as server:
            return asyncio.run(_Run(server, repository, options, plan, say).measure())


class _Run:
    """One run on one server."""

    def __init__(
        self, server: ServerProcess, repository: Path, options: LoadOptions, plan: Plan, say: Say
    ) -> None:
        self._server = server
        self._repository = repository
        self._options = replace(options, url=server.url)
        self._plan = plan
        self._say = say
        self._speech: Audio = load_speech(options.speech)
        base = f"{options.model}_{_ENSEMBLE}" if options.model else _ENSEMBLE
        self._exported = json.loads((repository / base / "1" / "manifest.json").read_text())
        self._names = [f"random_{number}" for number in range(plan.most)]

    async def measure(self) -> AdaptersResult:
        with connect(self._server.url, self._options.model) as client:
            clips = load_clips(self._options.speech)
            found = conditions(client.info, self._options, clips, 0)
        levels = [await self._level(0)]
        before = self._memory_bytes()
        loaded, failures = await self._load()
        for count in self._plan.counts:
            levels.append(await self._level(count))
        grown = self._memory_bytes() - before
        levels.append(await self._level(0))
        retired, more_failures = await self._retire()
        return AdaptersResult(
            schema=SCHEMA,
            kind="adapters",
            adapter_rank=self._exported["adapter_rank"],
            adapter_slots=self._exported["adapters"],
            adapter_bytes=self._file(self._names[0]).stat().st_size,
            memory_bytes_per_adapter=round(grown / self._plan.most),
            loaded=loaded,
            retired=retired,
            live_streams=self._plan.streams,
            live_failures=failures + more_failures,
            levels=compared(levels),
            conditions=found,
        )

    def _file(self, name: str) -> Path:
        return self._repository / f"{name}_{_ENSEMBLE}" / "1" / "adapter.safetensors"

    def _memory_bytes(self) -> int:
        return sum(process.memory_info().rss for process in self._server.processes())

    async def _level(self, count: int) -> Level:
        models = self._names[:count] or [self._options.model]
        streams = self._plan.streams
        async with live_streams(self._server.url, models, self._speech, streams) as tally:
            await asyncio.sleep(_WARM_UP_S)
            first, before = len(tally.latencies_ms), self._server.cpu_s()
            await asyncio.sleep(self._plan.hold_s)
            latencies_ms, after = tally.latencies_ms[first:], self._server.cpu_s()
        stream_s = len(latencies_ms) * await self._chunk_s()
        cpu_ms = {
            name: round(1000 * (used - before.get(name, 0.0)) / stream_s, 3)
            for name, used in sorted(after.items())
        }
        total = sum(cpu_ms.values())
        self._say(f"{count} adapters: {total:.2f} ms of CPU time per second of a stream")
        for failure in tally.failures[:1]:
            self._say(f"{len(tally.failures)} streams failed: {failure}")
        return Level(
            adapters=count,
            streams=streams,
            stream_s=round(stream_s, 1),
            cpu_ms_per_stream_s=cpu_ms,
            total_cpu_ms_per_stream_s=round(total, 3),
            streams_per_core_ratio=0.0,  # computed after all levels
            chunk_latency=latency_of(np.array(latencies_ms)),
            failures=len(tally.failures),
        )

    async def _chunk_s(self) -> float:
        async with connect_async(self._server.url, self._options.model) as client:
            return client.info.chunk_ms / 1000

    async def _load(self) -> tuple[Changes, int]:
        """Install and load all adapters, one by one, while streams of the base run."""
        await asyncio.to_thread(self._install)

        async def load(name: str, client: triton.InferenceServerClient) -> None:
            await client.load_model(f"{name}_{_ENSEMBLE}")
            await self._start_stream(name)

        changes, failures = await self._change(self._names, load)
        self._say(f"{changes.adapters} adapters loaded, {changes.slowest_ms:.0f} ms at most")
        return changes, failures

    async def _retire(self) -> tuple[Changes, int]:
        async def unload(name: str, client: triton.InferenceServerClient) -> None:
            await client.unload_model(f"{name}_{_ENSEMBLE}")

        changes, failures = await self._change(self._names[: self._plan.retired], unload)
        self._say(f"{changes.adapters} adapters retired, {changes.slowest_ms:.0f} ms at most")
        return changes, failures

    async def _change(
        self,
        names: Sequence[str],
        change: Callable[[str, triton.InferenceServerClient], Awaitable[None]],
    ) -> tuple[Changes, int]:
        """Load or retire the adapters `names` one by one while other streams run; time each."""
        url, took_ms = self._server.url, list[float]()
        models = [self._options.model]
        async with (
            live_streams(url, models, self._speech, self._plan.streams) as tally,
            triton.InferenceServerClient(url) as client,
        ):
            for name in names:
                began_s = time.monotonic()
                await change(name, client)
                took_ms.append(1000 * (time.monotonic() - began_s))
        changes = Changes(len(names), round(float(np.mean(took_ms)), 1), round(max(took_ms), 1))
        return changes, len(tally.failures)

    async def _start_stream(self, name: str) -> None:
        """Send the first chunk of a stream, which loads its adapter into memory."""
        async with (
            connect_async(self._server.url, name) as client,
            client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream,
        ):
            await stream.send(self._speech[: client.info.chunk_samples])

    def _install(self) -> None:
        command = [sys.executable, "-m", "export.adapters.random"]
        command += ["--repository", str(self._repository), "--count", str(self._plan.most)]
        if self._options.model:
            command += ["--base", self._options.model]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise NoAdapters(done.stderr.strip().splitlines()[-1].removeprefix("error: "))


def compared(levels: Sequence[Level]) -> list[Level]:
    """Return the levels with their streams per core relative to levels without adapters."""
    without = [level.total_cpu_ms_per_stream_s for level in levels if not level.adapters]
    base = sum(without) / len(without)
    return [
        replace(level, streams_per_core_ratio=round(base / level.total_cpu_ms_per_stream_s, 3))
        for level in levels
    ]
