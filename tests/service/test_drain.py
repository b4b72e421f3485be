"""Live streams of a whole service survive SIGTERM and end with the right text."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from earshot import ServerDraining, Transcript, connect_async

from export.audio import SAMPLE_RATE_HZ
from export.recordings import load_recordings
from server.launch import Triton, running
from tests.support.fake_recognizer import PATIENT
from tests.support.project import Exported
from tests.support.streaming_service import Service

pytestmark = pytest.mark.triton

CHUNK_MS = 320
STREAMS = 4


def test_streams_end_with_the_right_text_after_sigterm(
    exported: Exported, random_checkpoint: Path
) -> None:
    samples = load_recordings()[0].samples[: 3 * SAMPLE_RATE_HZ]
    with running(exported(CHUNK_MS)) as triton:
        service = Service.of(triton.grpc_url, triton.metrics_url, random_checkpoint, CHUNK_MS)
        transcripts = asyncio.run(_transcribe_across_sigterm(triton, samples))
        assert triton.process.wait(timeout_s=300) == 0
    [reference] = service.references([samples])
    for transcript in transcripts:
        service.assert_equal(transcript, reference)


async def _transcribe_across_sigterm(triton: Triton, samples: np.ndarray) -> list[Transcript]:
    half = len(samples) // 2
    async with connect_async(triton.grpc_url, timeouts=PATIENT) as client:
        streams = [client.stream(sample_rate_hz=SAMPLE_RATE_HZ) for _ in range(STREAMS)]
        await asyncio.gather(*(stream.send(samples[:half]) for stream in streams))
        triton.process.terminate()
        with pytest.raises(ServerDraining, match="takes no new streams"):
            while True:  # until the signal has arrived
                async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as late:
                    await late.send(samples)
        await asyncio.gather(*(stream.send(samples[half:]) for stream in streams))
        return await asyncio.gather(*(stream.finish() for stream in streams))
