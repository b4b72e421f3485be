"""Send whole utterances to `asr_offline` of a running service, as any Triton client would."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tritonclient.grpc.aio as grpcclient
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import InferInput

from export.checkpoint import Checkpoint
from export.offline.spec import BUCKETS_MS
from export.streaming.reference import ReferenceResult

BUCKETS = [16 * ms for ms in BUCKETS_MS]
_without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Answer:
    """The answer of the service for one utterance."""

    text: str
    tokens: list[int]
    token_frames: list[int]
    logprobs: list[float]
    pieces: list[str]

    @classmethod
    def of(cls, result) -> Answer:
        [count] = result.as_numpy("TOKEN_COUNT")[0]
        columns = {
            name: result.as_numpy(name)[0]
            for name in ("TOKENS", "TOKEN_FRAMES", "TOKEN_LOGPROBS", "TOKEN_TEXT_LENGTHS")
        }
        assert len({len(column) for column in columns.values()}) == 1
        for column in columns.values():
            assert (column[count:] == -1).all()
        text = result.as_numpy("TEXT")[0, 0].decode()
        ends = columns["TOKEN_TEXT_LENGTHS"][:count].cumsum().tolist()
        pieces = [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=False)]
        return cls(
            text,
            columns["TOKENS"][:count].tolist(),
            columns["TOKEN_FRAMES"][:count].tolist(),
            columns["TOKEN_LOGPROBS"][:count].tolist(),
            pieces,
        )


@dataclass(frozen=True)
class OfflineService:
    """A real Triton that serves an exported checkpoint."""

    url: str
    metrics_url: str
    checkpoint: Checkpoint
    ensemble: str = "asr_offline"

    def transcribe(self, utterances: Sequence[np.ndarray], at_once: int = 64) -> list[Answer]:
        """Each utterance of samples [N] in its bucket, ``at_once`` of them side by side."""
        return asyncio.run(_transcribe_all(self.url, self.ensemble, utterances, at_once))

    def infer(self, audio: np.ndarray, length: int) -> Answer:
        """One request as it is: AUDIO [N], whatever its length."""
        return asyncio.run(_infer_once(self.url, self.ensemble, audio, length))

    def counter(self, metric: str) -> dict[str, float]:
        """A counter's value by model, all instances together."""
        with _without_proxy.open(self.metrics_url, timeout=60) as response:
            families = text_string_to_metric_families(response.read().decode())
        values: dict[str, float] = {}
        for family in families:
            for sample in family.samples:
                # The parser gives every counter the suffix that OpenMetrics wants.
                if sample.name in (metric, f"{metric}_total"):
                    model = sample.labels["model"]
                    values[model] = values.get(model, 0) + sample.value
        return values

    def assert_equal(self, got: Answer, expected: ReferenceResult) -> None:
        assert got.tokens == expected.tokens
        assert got.token_frames == expected.token_frames
        assert got.text == text_of(self.checkpoint, expected.tokens)
        assert "".join(got.pieces) == got.text
        assert all(logprob <= 0 for logprob in got.logprobs)


def text_of(checkpoint: Checkpoint, tokens: list[int]) -> str:
    """The text of emitted tokens, as the original's processor decodes it."""
    # Labels of frames would be grouped; these tokens already are.
    grouped = {} if checkpoint.streams else {"group_tokens": False}
    return checkpoint.processor.batch_decode([tokens], skip_special_tokens=True, **grouped)[0]


def padded(samples: np.ndarray) -> np.ndarray:
    """``samples`` [N] with zeros up to the next bucket."""
    bucket = next(size for size in BUCKETS if size >= len(samples))
    return np.pad(samples, (0, bucket - len(samples)))


async def _transcribe_all(
    url: str, ensemble: str, utterances: Sequence[np.ndarray], at_once: int
) -> list[Answer]:
    gate = asyncio.Semaphore(at_once)

    async def one(samples: np.ndarray) -> Answer:
        async with gate:
            return await _infer(client, ensemble, padded(samples), len(samples))

    async with grpcclient.InferenceServerClient(url) as client:
        return await asyncio.gather(*map(one, utterances))


async def _infer_once(url: str, ensemble: str, audio: np.ndarray, length: int) -> Answer:
    async with grpcclient.InferenceServerClient(url) as client:
        return await _infer(client, ensemble, audio, length)


async def _infer(client, ensemble: str, audio: np.ndarray, length: int) -> Answer:
    inputs = [InferInput("AUDIO", [1, len(audio)], "FP32")]
    inputs[0].set_data_from_numpy(audio[None].astype(np.float32))
    inputs.append(InferInput("AUDIO_LENGTH", [1, 1], "INT32"))
    inputs[1].set_data_from_numpy(np.array([[length]], np.int32))
    return Answer.of(await client.infer(ensemble, inputs))
