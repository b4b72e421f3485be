"""What a lost connection changes in the text, over 200 cuts of real recordings (slow).

EARSHOT_SPEECH names a folder with more recordings than those of this repository, EARSHOT_RECORD a
file to write what was seen to, EARSHOT_CHUNKS_MS other chunks than 560 ms.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from earshot import Resumption, Timeouts, Transcript, connect_async
from rapidfuzz.distance import Levenshtein

from export.audio import SAMPLE_RATE_HZ
from export.checkpoint import load_checkpoint
from export.install import replacing
from export.options import ExportOptions, Serving
from export.recordings import load_recordings
from export.streaming.export import export_streaming
from server.launch import running
from tests.support.parity_record import record
from tests.support.project import DEMO_CHECKPOINT
from tests.support.streaming_service import Service
from tests.support.tcp_proxy import tcp_proxy

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(3600)]

STREAMS = 70
STREAM_S = 60
CUTS_PER_STREAM = 3
FEWEST_CUTS = 200
AT_ONCE = 8
# The machine is busy with the streams themselves.
PATIENT = Timeouts(queue_s=60, chunk_s=60, finish_s=60, resume_s=120)
SEAM_S = 1.0


@pytest.fixture(
    scope="module",
    params=[int(ms) for ms in os.environ.get("EARSHOT_CHUNKS_MS", "560").split(",")],
    ids=lambda ms: f"{ms}ms",
)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    repository = tmp_path_factory.mktemp("models") / "demo"
    checkpoint = load_checkpoint(str(DEMO_CHECKPOINT))
    options = ExportOptions(
        checkpoint.name, repository, chunk_ms=request.param, serving=Serving(max_streams=64)
    )
    with replacing(repository) as new:
        export_streaming(checkpoint, options, new, lambda step: None)
    with running(repository) as triton:
        yield Service(triton.grpc_url, triton.metrics_url, checkpoint, request.param)


@pytest.fixture(scope="module")
def speech(speech_folder: Path) -> list[np.ndarray]:
    """Join the recordings in random order to streams of a minute."""
    recordings = load_recordings(speech_folder)
    chance = random.Random(1)

    def stream() -> np.ndarray:
        parts: list[np.ndarray] = []
        while sum(map(len, parts)) < STREAM_S * SAMPLE_RATE_HZ:
            parts.append(chance.choice(recordings).samples)
        return np.concatenate(parts)[: STREAM_S * SAMPLE_RATE_HZ]

    return [stream() for _ in range(STREAMS)]


@dataclass(frozen=True)
class Disturbed:
    """A stream whose connection was cut."""

    transcript: Transcript
    resumptions: tuple[Resumption, ...]


def test_a_cut_changes_at_most_one_word_of_a_hundred(
    service: Service, speech: list[np.ndarray]
) -> None:
    undisturbed = service.transcribe(speech, AT_ONCE)
    disturbed = asyncio.run(_transcribe_with_cuts(service.url, speech))
    cuts = sum(len(stream.resumptions) for stream in disturbed)
    words = sum(len(transcript.words) for transcript in undisturbed)
    pairs = list(zip(undisturbed, disturbed, strict=True))
    changed = sum(Levenshtein.distance(_text(a), _text(b.transcript)) for a, b in pairs)
    at_seams = [
        _words_near(b.transcript, cut) - _words_near(a, cut)
        for a, b in pairs
        for cut in b.resumptions
    ]
    gaps_ms = sorted(cut.gap_ms for stream in disturbed for cut in stream.resumptions)
    record(
        "live streams whose connection is cut",
        f"{service.chunk_ms} ms",
        service.checkpoint,
        streams=len(speech),
        seconds=len(speech) * STREAM_S,
        cuts=cuts,
        words=words,
        changed_words=changed,
        changed_streams=sum(_text(a) != _text(b.transcript) for a, b in pairs),
        seams_with_fewer_words=sum(more < 0 for more in at_seams),
        seams_with_more_words=sum(more > 0 for more in at_seams),
        gap_ms={"median": gaps_ms[len(gaps_ms) // 2], "longest": gaps_ms[-1]},
    )
    assert cuts >= FEWEST_CUTS
    assert changed <= words / 100
    for stream in disturbed:
        times_ms = [word.start_ms for word in stream.transcript.words]
        assert times_ms == sorted(times_ms)
        assert stream.transcript.duration_s == STREAM_S


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
