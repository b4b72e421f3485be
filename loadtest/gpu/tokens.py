"""`python -m loadtest.gpu.tokens`: comparison of the tokens that two services output for real speech.

One has passed the export gate, so it matches `transformers`; the other may run on another device,
in another precision. All recordings are sent at once, so that batches form.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from earshot import AsyncClient, connect_async
from rapidfuzz.distance import Levenshtein

from loadtest.audio.recordings import SAMPLE_RATE_HZ, Clip, load_clips
from loadtest.options import RECORDINGS, Output, console
from loadtest.service.server import serving


def main(
    reference: Annotated[
        Path, typer.Option(help="Exported models that passed the gate of the export.")
    ],
    repository: Annotated[Path, typer.Option(help="Exported models to compare with them.")],
    output: Output,
    speech: Annotated[Path, typer.Option(help="Folder with recordings.")] = RECORDINGS,
    allowed: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the tokens that may differ.")
    ] = 0.05,
) -> None:
    """Transcribe every recording with both; the exit code is 1 if too many tokens differ."""
    clips = load_clips(speech)
    expected = _transcribe(reference, clips)
    got = _transcribe(repository, clips)
    edits = [Levenshtein.distance(a, b) for a, b in zip(got, expected, strict=True)]
    tokens = sum(map(len, expected))
    share = sum(edits) / max(1, tokens)
    result = {
        "speech": speech.name,
        "recordings": len(clips),
        "audio_s": round(sum(len(clip.samples) for clip in clips) / SAMPLE_RATE_HZ, 1),
        "reference_tokens": tokens,
        "edits": sum(edits),
        "share": round(share, 4),
        "recordings_with_edits": sum(edit > 0 for edit in edits),
        "allowed": allowed,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")
    console.print(f"{sum(edits)} of {tokens} tokens differ", highlight=False)
    raise typer.Exit(0 if tokens and share <= allowed else 1)


def _transcribe(repository: Path, clips: Sequence[Clip]) -> list[list[int]]:
    with serving(repository) as server:
        return asyncio.run(_all(server.url, clips))


async def _all(url: str, clips: Sequence[Clip]) -> list[list[int]]:
    async with connect_async(url) as client:
        return await asyncio.gather(*(_one(client, clip) for clip in clips))


async def _one(client: AsyncClient, clip: Clip) -> list[int]:
    async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
        await stream.send(clip.samples)
        transcript = await stream.finish()
    return [token.id for token in transcript.tokens]


if __name__ == "__main__":
    typer.run(main)
