"""Send signals to the processes of a server with live streams."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import earshot
import psutil

from loadtest.audio.recordings import SAMPLE_RATE_HZ, load_clips
from loadtest.audio.scripts import Script, write_scripts
from loadtest.capacity.conditions import conditions
from loadtest.faults.document import SCHEMA, DeadPath, Fault, FaultsResult
from loadtest.faults.tcp_proxy import tcp_proxy
from loadtest.live.transcripts import record_reference
from loadtest.options import LoadOptions
from loadtest.result.document import Conditions
from loadtest.service.connection import connect, connect_async
from loadtest.service.server import READY, ServerEnded

_STUB = "triton_python_backend_stub"
_LAUNCHER = "launcher"
_LIVE_S = 2.0
"""Time for which the streams are live before the signal."""
_LIMIT_S = 120.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Served:
    """A server with pipes on its output."""

    launcher: subprocess.Popen[str]
    url: str

    def processes(self) -> dict[str, int]:
        """Return the process ids of the launcher and of the instances of stages."""
        found = {_LAUNCHER: self.launcher.pid}
        for process in psutil.Process(self.launcher.pid).children(recursive=True):
            command = process.cmdline()
            if command and os.path.basename(command[0]) == _STUB:
                found[command[-2]] = process.pid
        return found


@dataclass(frozen=True)
class _Reference:
    scripts: Sequence[Script]
    texts: Sequence[str]


def measure(options: LoadOptions, streams: int, say: Say) -> FaultsResult:
    """Kill each stage, freeze the first, and drain the server, each time under live streams.

    Raises:
        EarshotError: The server cannot be reached.
        ServerEnded: The server did not become ready.
        ValueError: There are no recordings, or the server outputs no text for them.
    """
    with _serving(options) as served:
        stages = [name for name in served.processes() if name != _LAUNCHER]
        reference, found = _prepare(served, options)
    faults: list[Fault] = []
    for number, process in [
        *((signal.SIGKILL, name) for name in stages),
        (signal.SIGSTOP, stages[0]),
        (signal.SIGTERM, _LAUNCHER),
    ]:
        faults.append(_break(options, reference, streams, number, process))
        say(f"{faults[-1].signal} of {process}: {faults[-1].said}")
    with _serving(options) as served:
        dead_path = asyncio.run(_play_over_dead_path(served.url, reference, streams))
    say(f"dead TCP path: {dead_path.resumed_streams} of {streams} streams went on")
    return FaultsResult(
        schema=SCHEMA, kind="faults", faults=faults, dead_path=dead_path, conditions=found
    )


def _prepare(served: _Served, options: LoadOptions) -> tuple[_Reference, Conditions]:
    clips = load_clips(options.speech)
    scripts = write_scripts(clips, options.min_stream_s)
    with connect(served.url, None) as client:
        references = record_reference(client, scripts, lambda done: None)
        found = conditions(client.info, replace(options, url=served.url), clips, 0)
    return _Reference(scripts, ["".join(reference.texts) for reference in references]), found


def _break(
    options: LoadOptions, reference: _Reference, streams: int, number: signal.Signals, process: str
) -> Fault:
    """Send one signal to one process of a new server with live streams."""
    with _serving(options) as served:
        pid = served.processes()[process]
        outcome = asyncio.run(
            _play_across(served, reference, streams, number, pid, drains=process == _LAUNCHER)
        )
        return Fault(
            signal=number.name,
            process=process,
            ended_s=round(outcome.ended_s, 2),
            exit_code=served.launcher.returncode,
            said=outcome.said,
            open_streams=streams,
            finished_streams=outcome.right,
            refusal_ms=outcome.refusal_ms,
        )


@dataclass(frozen=True)
class _Outcome:
    right: int
    """Streams that ended with the undisturbed text."""
    refusal_ms: float | None
    said: str
    ended_s: float
    """Seconds since the signal."""


def _wait(launcher: subprocess.Popen[str]) -> tuple[str, float]:
    """Return the last line of a launcher and the time of its end; kill it if it does not end."""
    try:
        _, errors = launcher.communicate(timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        launcher.kill()
        errors = f"went on for {_LIMIT_S:g} s"
    return (errors.strip().splitlines() or [""])[-1], time.monotonic()


async def _play_across(
    served: _Served,
    reference: _Reference,
    streams: int,
    number: signal.Signals,
    pid: int,
    *,
    drains: bool,
) -> _Outcome:
    async with connect_async(served.url, None) as client:
        playing = [asyncio.create_task(_play(client, reference, index)) for index in range(streams)]
        await asyncio.sleep(_LIVE_S)
        sent_s = time.monotonic()
        os.kill(pid, number)
        refusal_ms = await _refusal_ms(client, reference.scripts[0]) if drains else None
        # In parallel with the streams, some of which wait for their timeouts.
        said, ended_s = await asyncio.to_thread(_wait, served.launcher)
        right = sum(played.right for played in await asyncio.gather(*playing))
    return _Outcome(right, refusal_ms, said, ended_s - sent_s)


async def _play_over_dead_path(url: str, reference: _Reference, streams: int) -> DeadPath:
    with tcp_proxy(url) as proxy:
        async with earshot.connect_async(proxy.url) as client:
            playing = [
                asyncio.create_task(_play(client, reference, index)) for index in range(streams)
            ]
            await asyncio.sleep(_LIVE_S)
            silent_s = time.monotonic()
            await asyncio.to_thread(proxy.silence)
            played = await asyncio.gather(*playing)
    resumed = [one for one in played if one.finished and one.resumed_s is not None]
    return DeadPath(
        open_streams=streams,
        resumed_streams=len(resumed),
        right_streams=sum(one.right for one in resumed),
        recovered_s=sorted(round(one.resumed_s - silent_s, 2) for one in resumed if one.resumed_s),
    )


@dataclass(frozen=True)
class _Played:
    """The end of a stream."""

    finished: bool
    right: bool
    """True if its text is that of an undisturbed stream."""
    resumed_s: float | None
    """Time of its first text over another connection."""


async def _play(client: earshot.AsyncClient, reference: _Reference, index: int) -> _Played:
    """Play one script in real time."""
    number = index % len(reference.scripts)
    samples, step = reference.scripts[number].samples, client.info.chunk_samples
    start_s, results = time.monotonic(), list[earshot.ChunkResult]()
    finished = False
    with contextlib.suppress(earshot.EarshotError):
        async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
            for begin in range(0, len(samples), step):
                due_s = start_s + begin / SAMPLE_RATE_HZ
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                results += await stream.send(samples[begin : begin + step])
            results += await stream.end()
            finished = True
    resumed_s = next((result.received_s for result in results if result.resumed), None)
    text = "".join(result.text for result in results)
    return _Played(finished, finished and text == reference.texts[number], resumed_s)


async def _refusal_ms(client: earshot.AsyncClient, script: Script) -> float:
    """Ask for new streams until the drain has begun; return the latency of the refusal."""
    while True:
        asked_s = time.monotonic()
        try:
            async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
                await stream.send(script.samples[: client.info.chunk_samples])
        except earshot.ServerDraining:
            return round(1000 * (time.monotonic() - asked_s), 1)


@contextmanager
def _serving(options: LoadOptions) -> Generator[_Served]:
    command = [sys.executable, "-m", "server", "--repository", str(options.repository)]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--chunk-share", "0"]
    with subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as launcher:
        assert launcher.stdout is not None
        ready = READY.match(launcher.stdout.readline())
        if ready is None:
            raise ServerEnded(f"the server ended before it was ready: {launcher.communicate()[1]}")
        try:
            yield _Served(launcher, ready["url"])
        finally:
            launcher.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                launcher.wait(1)
            launcher.terminate()  # a second SIGTERM: do not wait for streams that never end
