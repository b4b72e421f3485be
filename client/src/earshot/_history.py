"""Keep the last seconds of a stream, which another server needs in order to continue it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from ._chunker import Chunk
from ._server_info import ServerInfo
from ._transcript import Token

CONTEXT_S = 16.0
"""Seconds of audio that are replayed to another server; one takes 64 kB per stream at 16 kHz."""


class History:
    """The last chunks that were answered, and their tokens."""

    def __init__(self, info: ServerInfo, context_s: float) -> None:
        self.chunks: deque[Chunk] = deque(maxlen=math.ceil(1000 * context_s / info.chunk_ms))
        self.tokens: deque[Token] = deque()
        self.answered = 0
        """The number of chunks that were answered since the start of the stream."""
        self._frames_per_chunk = info.chunk_ms // info.frame_ms

    @property
    def first_chunk(self) -> int:
        """Return the number of the first chunk that is kept."""
        return self.answered - len(self.chunks)

    @property
    def end_frame(self) -> int:
        """Return the first frame that has not been answered."""
        return self.answered * self._frames_per_chunk

    @property
    def pause_frames(self) -> int:
        """Return the number of frames since the last token."""
        last = self.tokens[-1].frame if self.tokens else -1
        return self.end_frame - 1 - last

    def add(self, chunk: Chunk, tokens: Sequence[Token]) -> None:
        """Add the next chunk and its tokens."""
        self.answered += 1
        if not self.chunks.maxlen:
            return
        self.chunks.append(chunk)
        self.tokens += tokens
        first_frame = self.first_chunk * self._frames_per_chunk
        # The last token is kept however old it is: it decides whether a space precedes the next
        # one.
        while len(self.tokens) > 1 and self.tokens[0].frame < first_frame:
            self.tokens.popleft()
