"""Send utterances to a running service and compare its transcripts with transformers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from earshot import AsyncClient, Transcript, connect_async

from export.audio import SAMPLE_RATE_HZ
from export.checkpoint import Checkpoint, load_checkpoint
from export.streaming.reference import ReferenceResult, text_of, transcribe
from tests.support.fake_recognizer import PATIENT

AT_ONCE = 64


@dataclass(frozen=True)
class Service:
    """A real Triton that serves an exported checkpoint."""

    url: str
    metrics_url: str
    checkpoint: Checkpoint
    chunk_ms: int

    @classmethod
    def of(cls, url: str, metrics_url: str, folder: Path, chunk_ms: int) -> Service:
        return cls(url, metrics_url, load_checkpoint(str(folder)), chunk_ms)

    def references(self, utterances: Sequence[np.ndarray]) -> list[ReferenceResult]:
        return transcribe(self.checkpoint, utterances, lookahead=self.chunk_ms // 80 - 1)

    def transcribe(self, utterances: Sequence[np.ndarray], at_once: int = AT_ONCE):
        """One stream for each utterance of samples [N], ``at_once`` of them side by side."""
        return asyncio.run(_transcribe_all(self.url, utterances, at_once))

    def assert_equal(self, got: Transcript, expected: ReferenceResult) -> None:
        assert [token.id for token in got.tokens] == expected.tokens
        assert [token.frame for token in got.tokens] == expected.token_frames
        assert got.text == text_of(self.checkpoint, expected.tokens)


async def _transcribe_all(
    url: str, utterances: Sequence[np.ndarray], at_once: int
) -> list[Transcript]:
    gate = asyncio.Semaphore(at_once)
    async with connect_async(url, timeouts=PATIENT) as client:
        return await asyncio.gather(*(_transcribe(client, gate, u) for u in utterances))


async def _transcribe(
    client: AsyncClient, gate: asyncio.Semaphore, samples: np.ndarray
) -> Transcript:
    async with gate, client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
        await stream.send(samples)
        return await stream.finish()
