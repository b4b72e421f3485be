"""Stream conversations through a server, and count the ends of utterances that are found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import earshot
import numpy as np

from loadtest.audio.recordings import SAMPLE_RATE_HZ
from loadtest.audio.word_errors import count_errors, total
from loadtest.endpointing.conversations import Conversation
from loadtest.endpointing.score import NOTHING, Score, score

ENDPOINTS_MS = (None, 300, 500, 800)
"""Values of `endpoint_ms`; None for the same streams without utterances, to find the cost of
these."""
_PIECE = SAMPLE_RATE_HZ // 50
_STREAMS = 32


@dataclass(frozen=True)
class StreamOutput:
    """The output of one stream."""

    events: tuple[int, ...]
    """For each utterance, the number of samples sent when its end was reported."""
    delays_ms: tuple[float, ...]
    """For each utterance, the audio between its reported end and that point."""
    words: tuple[int, ...]
    """The sample at which each word starts."""
    text: str
    chunks: int


def measure(url: str, model: str | None, conversations: Sequence[Conversation]) -> dict[str, Any]:
    """Return the figures for every endpoint, for one recognizer."""
    return asyncio.run(_measure(url, model, conversations))


async def _measure(
    url: str, model: str | None, conversations: Sequence[Conversation]
) -> dict[str, Any]:
    async with earshot.connect_async(url, model=model) as client:
        info = client.info
        plain = await _stream_all(client, conversations, earshot.StreamOptions())
        chunks = sum(output.chunks for output in plain)
        figures = [_without(conversations, plain)]
        for endpoint_ms in filter(None, ENDPOINTS_MS):
            options = earshot.StreamOptions(endpoint_ms=endpoint_ms)
            outputs = await _stream_all(client, conversations, options)
            figures.append(_with(conversations, outputs, endpoint_ms, chunks))
    return {"chunk_ms": info.chunk_ms, "model": info.model, "endpoints": figures}


async def _stream_all(
    client: earshot.AsyncClient,
    conversations: Sequence[Conversation],
    options: earshot.StreamOptions,
) -> list[StreamOutput]:
    gate = asyncio.Semaphore(_STREAMS)

    async def stream(conversation: Conversation) -> StreamOutput:
        async with gate:
            return await _stream(client, conversation, options)

    return list(await asyncio.gather(*map(stream, conversations)))


async def _stream(
    client: earshot.AsyncClient, conversation: Conversation, options: earshot.StreamOptions
) -> StreamOutput:
    """Stream a conversation, as fast as the server answers, in pieces of 20 ms."""
    events: list[int] = []
    delays_ms: list[float] = []
    chunks = 0
    async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ, options=options) as stream:
        for start in range(0, conversation.samples.size, _PIECE):
            results = await stream.send(conversation.samples[start : start + _PIECE])
            sent = min(start + _PIECE, conversation.samples.size)
            for utterance in (u for result in results for u in result.utterances):
                events.append(sent)
                delays_ms.append(sent * 1000 / SAMPLE_RATE_HZ - utterance.end_ms)
            chunks += len(results)
        chunks += len(await stream.end())
        transcript = stream.transcript
    words = tuple(word.start_ms * SAMPLE_RATE_HZ // 1000 for word in transcript.words)
    return StreamOutput(tuple(events), tuple(delays_ms), words, transcript.text, chunks)


def _without(
    conversations: Sequence[Conversation], outputs: Sequence[StreamOutput]
) -> dict[str, Any]:
    return {"endpoint_ms": None, **_cost(conversations, outputs)}


def _with(
    conversations: Sequence[Conversation],
    outputs: Sequence[StreamOutput],
    endpoint_ms: int,
    plain_chunks: int,
) -> dict[str, Any]:
    """Return the figures for one endpoint; `plain_chunks` were sent without it."""
    scores = [
        (one.noisy, score(one, other.events, other.words, endpoint_ms))
        for one, other in zip(conversations, outputs, strict=True)
    ]
    delays_ms = [delay_ms for one in outputs for delay_ms in one.delays_ms]
    cost = _cost(conversations, outputs)
    return {
        "endpoint_ms": endpoint_ms,
        "all": _shares([counted for _, counted in scores]),
        "zeros_in_pauses": _shares([counted for noisy, counted in scores if not noisy]),
        "noise": _shares([counted for noisy, counted in scores if noisy]),
        "delay_ms": {
            f"p{share}": round(float(np.percentile(delays_ms, share))) for share in (50, 99)
        },
        **cost,
        "more_chunks": round(cost["chunks"] / plain_chunks - 1, 4),
    }


def _shares(scores: Sequence[Score]) -> dict[str, Any]:
    counted = sum(scores, NOTHING)
    return {
        **asdict(counted),
        "found_share": round(counted.found / max(1, counted.pauses - counted.wordless), 4),
        "false_share": round(counted.false / max(1, counted.events), 4),
    }


def _cost(conversations: Sequence[Conversation], outputs: Sequence[StreamOutput]) -> dict[str, Any]:
    errors = total(
        count_errors([one.transcript for one in conversations], [one.text for one in outputs])
    )
    return {"chunks": sum(one.chunks for one in outputs), "word_error_rate": round(errors.rate, 4)}
