"""What a lost connection changes in the text, over 200 cuts of real recordings (slow).

EARSHOT_SPEECH names a folder with more recordings than those of this repository, EARSHOT_RECORD a
file to write what was seen to, EARSHOT_CHUNK_MS another chunk than 560 ms.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from earshot import AsyncClient, Resumption, Timeouts, Transcript, connect_async
from rapidfuzz.distance import Levenshtein

from export.audio import SAMPLE_RATE_HZ
from export.checkpoint import load_checkpoint
from export.install import replacing
from export.options import ExportOptions, Serving
from export.streaming.export import export_streaming
from loadtest.faults.tcp_proxy import tcp_proxy
from server.errors import TritonDied
from server.launch import Triton, running
from server.ports import choose_endpoints
from tests.support.long_speech import streams_of_speech
from tests.support.parity_record import record
from tests.support.project import DEMO_CHECKPOINT
from tests.support.streaming_service import Service

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(3600)]

STREAMS = 70
STREAM_S = 60
CUTS_PER_STREAM = 3
FEWEST_CUTS = 200
AT_ONCE = 8
# The machine is busy with the streams themselves.
PATIENT = Timeouts(queue_s=60, chunk_s=60, finish_s=60, resume_s=120)
SEAM_S = 1.0
CHUNK_MS = int(os.environ.get("EARSHOT_CHUNK_MS", "560"))
LIVE_STREAMS = 100
LIVE_S = 40
KILL_AFTER_S = 20.0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "demo"
    checkpoint = load_checkpoint(str(DEMO_CHECKPOINT))
    options = ExportOptions(
        checkpoint.name, folder, chunk_ms=CHUNK_MS, serving=Serving(max_streams=256)
    )
    with replacing(folder) as new:
        export_streaming(checkpoint, options, new, lambda step: None)
    return folder


@pytest.fixture(scope="module")
def service_of() -> Callable[[Triton], Service]:
    """Describe a server of the demo checkpoint."""
    checkpoint = load_checkpoint(str(DEMO_CHECKPOINT))
    return lambda triton: Service(triton.grpc_url, triton.metrics_url, checkpoint, CHUNK_MS)


@pytest.fixture(scope="module")
def speech(speech_folder: Path) -> list[np.ndarray]:
    return streams_of_speech(speech_folder, STREAMS, STREAM_S)


@dataclass(frozen=True)
class Disturbed:
    """A stream whose connection was cut."""

    transcript: Transcript
    resumptions: tuple[Resumption, ...]


def test_a_cut_changes_at_most_one_word_of_a_hundred(
    repository: Path, speech: list[np.ndarray], service_of: Callable[[Triton], Service]
) -> None:
    with running(repository) as triton:
        service = service_of(triton)
        undisturbed = service.transcribe(speech, AT_ONCE)
        disturbed = asyncio.run(_transcribe_with_cuts(service.url, speech))
        cuts = _judge("live streams whose connection is cut", service, undisturbed, disturbed)
    assert cuts >= FEWEST_CUTS


def test_live_streams_go_on_after_kill_9(
    repository: Path, speech: list[np.ndarray], service_of: Callable[[Triton], Service]
) -> None:
    length = LIVE_S * SAMPLE_RATE_HZ
    beginnings, ends = zip(
        *((samples[:length], samples[-length:]) for samples in speech), strict=True
    )
    live = [*beginnings, *ends][:LIVE_STREAMS]
    endpoints = choose_endpoints("127.0.0.1", grpc_port=None, metrics_port=None, http_port=None)
    undisturbed: list[Transcript] = []
    jobs: list[Future[list[Disturbed]]] = []
    with ThreadPoolExecutor(1) as pool:
        with (
            pytest.raises(TritonDied),
            running(repository, grpc_port=endpoints.grpc_port) as triton,
        ):
            undisturbed += service_of(triton).transcribe(live, AT_ONCE)
            jobs.append(pool.submit(asyncio.run, _transcribe_live(endpoints.grpc_url, live)))
            time.sleep(KILL_AFTER_S)
            os.kill(triton.process.pid, signal.SIGKILL)
            triton.process.wait()
        with running(repository, grpc_port=endpoints.grpc_port) as triton:
            disturbed = jobs[0].result()
            service = service_of(triton)
    assert [len(stream.resumptions) for stream in disturbed] == [1] * LIVE_STREAMS
    _judge("live streams whose server is killed and restarted", service, undisturbed, disturbed)


async def _transcribe_live(url: str, speech: list[np.ndarray]) -> list[Disturbed]:
    """Stream all recordings at the same time, in real time."""
    piece = SAMPLE_RATE_HZ // 10
    clock = asyncio.get_running_loop()

    async def transcribe(client: AsyncClient, samples: np.ndarray) -> Disturbed:
        async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
            began_s = clock.time()
            for start in range(0, len(samples), piece):
                spoken_s = min(start + piece, len(samples)) / SAMPLE_RATE_HZ
                await asyncio.sleep(began_s + spoken_s - clock.time())
                await stream.send(samples[start : start + piece])
            return Disturbed(await stream.finish(), stream.resumptions)

    async with connect_async(url, timeouts=PATIENT) as client:
        return await asyncio.gather(*(transcribe(client, samples) for samples in speech))


def _judge(
    kind: str, service: Service, undisturbed: list[Transcript], disturbed: list[Disturbed]
) -> int:
    """Compare the texts, record what was seen, and return the number of cuts."""
    pairs = list(zip(undisturbed, disturbed, strict=True))
    cuts = sum(len(stream.resumptions) for stream in disturbed)
    words = sum(len(transcript.words) for transcript in undisturbed)
    changed = sum(Levenshtein.distance(_text(a), _text(b.transcript)) for a, b in pairs)
    at_seams = [
        _words_near(b.transcript, cut) - _words_near(a, cut)
        for a, b in pairs
        for cut in b.resumptions
    ]
    gaps_ms = sorted(cut.gap_ms for stream in disturbed for cut in stream.resumptions)
    record(
        kind,
        f"{service.chunk_ms} ms",
        service.checkpoint,
        streams=len(pairs),
        seconds=round(sum(transcript.duration_s for transcript in undisturbed)),
        cuts=cuts,
        words=words,
        changed_words=changed,
        changed_streams=sum(_text(a) != _text(b.transcript) for a, b in pairs),
        seams_with_fewer_words=sum(more < 0 for more in at_seams),
        seams_with_more_words=sum(more > 0 for more in at_seams),
        gap_ms={"median": gaps_ms[len(gaps_ms) // 2], "longest": gaps_ms[-1]},
    )
    assert changed <= words / 100
    for before, after in pairs:
        times_ms = [word.start_ms for word in after.transcript.words]
        assert times_ms == sorted(times_ms)
        assert after.transcript.duration_s == before.duration_s
    return cuts


def _text(transcript: Transcript) -> list[str]:
    return [word.text for word in transcript.words]


def _words_near(transcript: Transcript, cut: Resumption) -> int:
    return sum(abs(word.start_ms / 1000 - cut.position_s) < SEAM_S for word in transcript.words)


async def _transcribe_with_cuts(url: str, speech: list[np.ndarray]) -> list[Disturbed]:
    gate = asyncio.Semaphore(AT_ONCE)
    return await asyncio.gather(
        *(_transcribe(url, samples, seed, gate) for seed, samples in enumerate(speech))
    )


async def _transcribe(
    url: str, samples: np.ndarray, seed: int, gate: asyncio.Semaphore
) -> Disturbed:
    chance = random.Random(seed)
    cuts = [
        chance.randrange(start, start + len(samples) // CUTS_PER_STREAM)
        for start in range(0, len(samples), len(samples) // CUTS_PER_STREAM)
    ]
    with tcp_proxy(url) as proxy:
        async with (
            gate,
            connect_async(proxy.url, timeouts=PATIENT) as client,
            client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream,
        ):
            await stream.send(samples[: cuts[0]])
            for start, end in pairwise([*cuts, len(samples)]):
                sending = asyncio.ensure_future(stream.send(samples[start:end]))
                await asyncio.sleep(chance.uniform(0, 0.1))
                # Triton 2.51 may crash when a connection goes under its requests.
                await asyncio.to_thread(proxy.hang_up)
                await sending
            return Disturbed(await stream.finish(), stream.resumptions)
