"""``python -m loadtest.tokens``: two services must hear the same tokens in real speech.

One has passed the export gate, so it says what `transformers` says; the other may run on another
device, in another precision. All recordings are spoken at once, so that batches form.
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
from rich.console import Console

from loadtest.server_process import serving
from loadtest.speech import RECORDINGS, SAMPLE_RATE_HZ, Recording, load_recordings

_console = Console(stderr=True)


def main(
    reference: Annotated[Path, typer.Option(help="Exported models that passed the gate.")],
    repository: Annotated[Path, typer.Option(help="Exported models to compare with them.")],
    output: Annotated[Path, typer.Option(help="Where the result goes.")],
    speech: Annotated[Path, typer.Option(help="Folder with recordings.")] = RECORDINGS,
    allowed: Annotated[float, typer.Option(min=0, max=1, help="Share that may differ.")] = 0.05,
) -> None:
    """Transcribe every recording with both; exit code 1 if more tokens differ than allowed."""
    recordings = load_recordings(speech)
    expected = _transcribe(reference, recordings)
    got = _transcribe(repository, recordings)
    edits = [Levenshtein.distance(a, b) for a, b in zip(got, expected, strict=True)]
    tokens = sum(map(len, expected))
    share = sum(edits) / max(1, tokens)
    result = {
        "speech": speech.name,
        "recordings": len(recordings),
        "audio_s": round(sum(len(r.samples) for r in recordings) / SAMPLE_RATE_HZ, 1),
        "reference_tokens": tokens,
        "edits": sum(edits),
        "share": round(share, 4),
        "recordings_with_edits": sum(edit > 0 for edit in edits),
        "allowed": allowed,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")
    _console.print(f"{sum(edits)} of {tokens} tokens differ", highlight=False)
    raise typer.Exit(0 if tokens and share <= allowed else 1)


def _transcribe(repository: Path, recordings: Sequence[Recording]) -> list[list[int]]:
    with serving(repository) as server:
        return asyncio.run(_all(server.url, recordings))


async def _all(url: str, recordings: Sequence[Recording]) -> list[list[int]]:
    async with connect_async(url) as client:
        return await asyncio.gather(*(_one(client, recording) for recording in recordings))


async def _one(client: AsyncClient, recording: Recording) -> list[int]:
    async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
        await stream.send(recording.samples)
        transcript = await stream.finish()
    return [token.id for token in transcript.tokens]


if __name__ == "__main__":
    typer.run(main)
