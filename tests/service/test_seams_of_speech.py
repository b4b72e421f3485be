"""What a seam between two sequences costs, apart from what the recognizer costs (slow).

A sequence that only heard the last seconds may hear other words than the one before it; no seam can
mend that. Where both heard the same, the stream must be the undisturbed one, token for token.

EARSHOT_SPEECH names a folder with more recordings than those of this repository, EARSHOT_RECORD a
file to write what was seen to.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from earshot import Token
from earshot._history import CONTEXT_S
from earshot._seam import Seam
from rapidfuzz.distance import Levenshtein

from export.audio import FRAME_MS, SAMPLE_RATE_HZ
from export.checkpoint import Checkpoint, load_checkpoint
from export.install import replacing
from export.options import ExportOptions
from export.streaming.chain import Chain, StreamResult, chunked
from export.streaming.export import build_stages, export_streaming, spec_of
from tests.support.long_speech import streams_of_speech
from tests.support.parity_record import record
from tests.support.project import DEMO_CHECKPOINT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CHUNK_MS = 560
FRAMES = CHUNK_MS // FRAME_MS
STREAMS = 70
STREAM_S = 60
CUTS_PER_STREAM = 3
NEAR_FRAMES = 1000 // FRAME_MS
REPEATED = math.ceil(1000 * CONTEXT_S / CHUNK_MS)
LATER = 14


@dataclass(frozen=True)
class Cut:
    """A stream around a cut; frames count from the start of the stream."""

    boundary: int
    undisturbed: list[Token]
    repeated: list[Token]
    """What the new sequence heard, before the boundary and after it."""

    def joined(self) -> list[Token]:
        """Return the stream as the client emits it."""
        said = [token for token in self.undisturbed if token.frame < self.boundary]
        heard = [token for token in self.repeated if token.frame < self.boundary]
        seam = Seam(said, heard, self.boundary, FRAME_MS)
        for start in range(self.boundary, self.boundary + LATER * FRAMES, FRAMES):
            reply = [x for x in self.repeated if start <= x.frame < start + FRAMES]
            said += reply if seam.is_done else seam.join(reply)
        return said

    def near(self, tokens: Sequence[Token]) -> list[int]:
        return [x.id for x in tokens if abs(x.frame - self.boundary) <= NEAR_FRAMES]


def test_a_seam_changes_nothing_where_both_sequences_hear_the_same(
    tmp_path: Path, speech_folder: Path
) -> None:
    checkpoint = load_checkpoint(str(DEMO_CHECKPOINT))
    cuts = list(_cut(checkpoint, tmp_path, streams_of_speech(speech_folder, STREAMS, STREAM_S)))
    same = [cut for cut in cuts if cut.near(cut.undisturbed) == cut.near(cut.repeated)]
    changed = [cut for cut in cuts if cut.near(cut.undisturbed) != cut.near(cut.joined())]
    words = [(_words(cut.undisturbed), _words(cut.joined())) for cut in cuts]
    record(
        "seams between a sequence of the exported stages and one that repeats the last seconds",
        f"{CHUNK_MS} ms",
        checkpoint,
        repeated_s=CONTEXT_S,
        seams=len(cuts),
        heard_the_same_within_1_s=len(same),
        of_these_changed=sum(cut in same for cut in changed),
        changed_within_1_s=len(changed),
        words=sum(len(before) for before, _ in words),
        changed_words=sum(Levenshtein.distance(before, after) for before, after in words),
    )
    assert len(same) > 0.9 * len(cuts)
    assert not any(cut in same for cut in changed)


def _cut(checkpoint: Checkpoint, folder: Path, speech: Sequence[np.ndarray]) -> Iterator[Cut]:
    """Cut each stream after some of its chunks."""
    chain = _chain(checkpoint, folder / "models")
    streams = chunked(speech, CHUNK_MS * SAMPLE_RATE_HZ // 1000)
    chance = random.Random(1)
    undisturbed = [_tokens(checkpoint, result, 0) for result in chain().transcribe_chunks(streams)]
    for _ in range(CUTS_PER_STREAM):
        ends = [chance.randrange(REPEATED, len(stream) - LATER) for stream in streams]
        repeated = chain().transcribe_chunks(
            [
                stream[end - REPEATED : end + LATER]
                for stream, end in zip(streams, ends, strict=True)
            ]
        )
        for before, result, end in zip(undisturbed, repeated, ends, strict=True):
            first = (end - REPEATED) * FRAMES
            heard = _tokens(checkpoint, result, first)
            seen = [x for x in before if first <= x.frame < (end + LATER) * FRAMES]
            yield Cut(end * FRAMES, seen, heard)


def _chain(checkpoint: Checkpoint, folder: Path) -> Callable[[], Chain]:
    """Export the checkpoint; return what opens its stages for streams that begin."""
    options = ExportOptions(checkpoint.name, folder, chunk_ms=CHUNK_MS)
    with replacing(folder) as new:
        export_streaming(checkpoint, options, new, lambda step: None)
    spec = spec_of(checkpoint, build_stages(checkpoint, FRAMES), options)
    return lambda: Chain(folder, spec, STREAMS)


def _tokens(checkpoint: Checkpoint, result: StreamResult, first_frame: int) -> list[Token]:
    """Return tokens of a stream whose sequence began at `first_frame`."""
    pieces = checkpoint.processor.tokenizer.convert_ids_to_tokens(result.tokens)
    return [
        Token(number, piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " "), first_frame + frame, 0.0)
        for number, piece, frame in zip(result.tokens, pieces, result.token_frames, strict=True)
    ]


def _words(tokens: Sequence[Token]) -> list[str]:
    return "".join(token.text for token in tokens).split()
