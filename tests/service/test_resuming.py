"""Live streams of a whole service outlive its server, with the text of an undisturbed one.

What they hear again goes back to their start here, so that not a token may differ.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import earshot
import numpy as np
import pytest
from earshot import Transcript, connect_async

from export.audio import SAMPLE_RATE_HZ
from export.recordings import load_recordings
from server.errors import TritonDied
from server.launch import Triton, running
from server.ports import choose_endpoints
from tests.support.fake_recognizer import PATIENT
from tests.support.project import Exported
from tests.support.streaming_service import Service

pytestmark = pytest.mark.triton

CHUNK_MS = 320
CHUNK = CHUNK_MS * SAMPLE_RATE_HZ // 1000
STREAMS = 4
# A server takes long to come back on a busy machine; it need not be told of each end.
TIMEOUTS = replace(PATIENT, resume_s=300, close_s=1)


@pytest.fixture
def samples() -> np.ndarray:
    return np.concatenate([recording.samples for recording in load_recordings()])[
        : 9 * SAMPLE_RATE_HZ
    ]


@dataclass
class Act:
    """The moment at which a server goes, while streams are open."""

    streams: int
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    done: threading.Event = field(default_factory=threading.Event)

    def wait_for_streams(self) -> None:
        for _ in range(self.streams):
            assert self.begun.acquire(timeout=300)


def test_streams_go_on_after_kill_9_and_a_restart(
    exported: Exported, random_checkpoint: Path, samples: np.ndarray
) -> None:
    kill = Act(STREAMS + 1)
    endpoints = choose_endpoints("127.0.0.1", grpc_port=None, metrics_port=None, http_port=None)
    url = endpoints.grpc_url
    jobs: list[Future[list[Transcript]]] = []
    with ThreadPoolExecutor(2) as pool:
        with (
            pytest.raises(TritonDied),
            running(exported(CHUNK_MS), grpc_port=endpoints.grpc_port) as triton,
        ):
            jobs.append(pool.submit(_transcribe_sync, url, samples, kill))
            jobs.append(pool.submit(asyncio.run, _transcribe_async(url, samples, kill)))
            kill.wait_for_streams()
            os.kill(triton.process.pid, signal.SIGKILL)
            triton.process.wait()
            kill.done.set()
        with running(exported(CHUNK_MS), grpc_port=endpoints.grpc_port) as triton:
            transcripts = [transcript for job in jobs for transcript in job.result(timeout=300)]
            service = Service.of(triton.grpc_url, triton.metrics_url, random_checkpoint, CHUNK_MS)
    [reference] = service.references([samples])
    for transcript in transcripts:
        service.assert_equal(transcript, reference)


def _transcribe_sync(url: str, samples: np.ndarray, kill: Act) -> list[Transcript]:
    half = len(samples) // 2
    with (
        earshot.connect(url, timeouts=TIMEOUTS) as client,
        client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream,
    ):
        stream.send(samples[:half])
        kill.begun.release()
        assert kill.done.wait(300)
        stream.send(samples[half:])
        transcript = stream.finish()
        _assert_resumed(stream, url, half)
        return [transcript]


async def _transcribe_async(url: str, samples: np.ndarray, kill: Act) -> list[Transcript]:
    half = len(samples) // 2

    async def transcribe(client: earshot.AsyncClient) -> Transcript:
        async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
            await stream.send(samples[:half])
            kill.begun.release()
            assert await asyncio.to_thread(kill.done.wait, 300)
            await stream.send(samples[half:])
            transcript = await stream.finish()
            _assert_resumed(stream, url, half)
            return transcript

    async with connect_async(url, timeouts=TIMEOUTS) as client:
        return await asyncio.gather(*(transcribe(client) for _ in range(STREAMS)))


def _assert_resumed(stream: earshot.Stream | earshot.AsyncStream, url: str, half: int) -> None:
    [resumed] = stream.resumptions
    assert resumed.url == url
    assert half - CHUNK < resumed.position_s * SAMPLE_RATE_HZ <= half
    assert resumed.gap_ms > 0


@pytest.fixture
def two_servers(exported: Exported) -> Iterator[tuple[Triton, Triton]]:
    repository = exported(CHUNK_MS)
    with running(repository) as first, running(repository) as second:
        yield first, second


def test_streams_leave_a_server_that_drains(
    two_servers: tuple[Triton, Triton], random_checkpoint: Path, samples: np.ndarray
) -> None:
    first, second = two_servers
    transcripts = asyncio.run(_transcribe_across_a_drain(first, second, samples))
    service = Service.of(second.grpc_url, second.metrics_url, random_checkpoint, CHUNK_MS)
    [reference] = service.references([samples])
    for transcript in transcripts:
        service.assert_equal(transcript, reference)


async def _transcribe_across_a_drain(
    first: Triton, second: Triton, samples: np.ndarray
) -> list[Transcript]:
    urls = [first.grpc_url, second.grpc_url]
    async with connect_async(urls, timeouts=TIMEOUTS) as client:
        streams = [client.stream(sample_rate_hz=SAMPLE_RATE_HZ) for _ in range(STREAMS)]
        begin = samples[: 2 * CHUNK]
        await asyncio.gather(*(stream.send(begin) for stream in streams))
        first.process.terminate()
        start = 0
        for start in range(len(begin), len(samples) - CHUNK, CHUNK):
            piece = samples[start : start + CHUNK]
            await asyncio.gather(*(stream.send(piece) for stream in streams))
            await asyncio.sleep(1)  # it takes a few seconds, however slowly the audio comes
            if all(stream.resumptions for stream in streams):
                break
        # The streams are still open, and the first server ends without one of them.
        assert await asyncio.to_thread(first.process.wait, 300) == 0
        rest = samples[start + CHUNK :]
        await asyncio.gather(*(stream.send(rest) for stream in streams))
        for stream in streams:
            [changed] = stream.resumptions
            assert changed.url == second.grpc_url
            assert changed.cause == f"{first.grpc_url} is about to stop"
        return await asyncio.gather(*(stream.finish() for stream in streams))
