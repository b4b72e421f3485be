"""Compare the tokens that two services output for real speech.

One has passed the export's parity gate, so it matches `transformers`; the other may run on another
device and in another precision. All recordings are sent at once, so that batches form.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from earshot import AsyncClient, connect_async
from rapidfuzz.distance import Levenshtein

from loadtest.audio.recordings import SAMPLE_RATE_HZ, Clip, load_clips
from loadtest.result.files import write_whole
from loadtest.service.server import serving


@dataclass(frozen=True)
class TokenComparison:
    """Edits between the tokens of a service and those of the reference."""

    speech: str
    recordings: int
    audio_s: float
    reference_tokens: int
    edits: int
    recordings_with_edits: int

    @property
    def share(self) -> float:
        """Return the edits as a share of the reference's tokens; 1 if there are none."""
        return self.edits / self.reference_tokens if self.reference_tokens else 1.0

    def write(self, path: Path, allowed: float) -> None:
        """Write the comparison as JSON, with the share of tokens that may differ."""
        document = asdict(self) | {"share": round(self.share, 4), "allowed": allowed}
        write_whole(path, json.dumps(document, indent=2) + "\n")


def compare_tokens(reference: Path, repository: Path, speech: Path) -> TokenComparison:
    """Transcribe every recording below `speech` with both services, and count the edits."""
    clips = load_clips(speech)
    expected = _transcribe(reference, clips)
    got = _transcribe(repository, clips)
    edits = [Levenshtein.distance(a, b) for a, b in zip(got, expected, strict=True)]
    return TokenComparison(
        speech=speech.name,
        recordings=len(clips),
        audio_s=round(sum(len(clip.samples) for clip in clips) / SAMPLE_RATE_HZ, 1),
        reference_tokens=sum(map(len, expected)),
        edits=sum(edits),
        recordings_with_edits=sum(edit > 0 for edit in edits),
    )


def _transcribe(repository: Path, clips: Sequence[Clip]) -> list[list[int]]:
    with serving(repository) as server:
        return asyncio.run(_transcribe_all(server.url, clips))


async def _transcribe_all(url: str, clips: Sequence[Clip]) -> list[list[int]]:
    async with connect_async(url) as client:
        return await asyncio.gather(*(_tokens_of(client, clip) for clip in clips))


async def _tokens_of(client: AsyncClient, clip: Clip) -> list[int]:
    if client.offline is not None:
        whole = await client.transcribe(clip.samples, sample_rate_hz=SAMPLE_RATE_HZ)
        return [token.id for token in whole.tokens]
    async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
        await stream.send(clip.samples)
        transcript = await stream.finish()
    return [token.id for token in transcript.tokens]
