"""Cut a stream into chunks, and complete a chunk with silence to get its text at once.

This happens at the end of an utterance, and when the application asks for it. The silence is a
whole number of frames, so that the frame boundaries in the audio after it do not move; silence that
does not fit into its chunk begins the next one. Times are those of the audio, without the silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ._chunker import Chunk, Chunker
from ._endpointer import Endpointer, Speech
from ._pcm import Samples
from ._server_info import ServerInfo
from ._stream_options import StreamOptions
from ._timeline import Timeline
from ._transcript import Token, Utterance, Word
from ._utterances import Utterances

# A recognizer may emit a word a little after it was spoken.
_LEAST_SILENCE_MS = 320


class Segmenter:
    """Cuts one stream; each chunk must be answered before the next one is taken."""

    def __init__(self, info: ServerInfo, options: StreamOptions) -> None:
        self._chunker = Chunker(info.chunk_samples, info.lead_samples)
        self._chunk_samples = info.chunk_samples
        self._frame_ms = info.frame_ms
        self._frame_samples = info.frame_ms * info.sample_rate_hz // 1000
        self._least_silence = _LEAST_SILENCE_MS * info.sample_rate_hz // 1000
        endpoint_ms = options.endpoint_ms
        self._endpointer = Endpointer(info.sample_rate_hz, endpoint_ms) if endpoint_ms else None
        self._timeline = Timeline()
        self._utterances = Utterances(info.sample_rate_hz, keep=options.keep_transcript)
        self._speech: Speech | None = None
        self._samples = 0
        self._has_news = False
        self.completed = False
        """True if the reply to the last chunk makes all words final."""

    def push(self, samples: Samples) -> Iterator[Chunk]:
        """Add samples [n]; yield each chunk that is full, or that ends an utterance."""
        if self._endpointer is None:
            return self._fill(samples)
        return self._split(samples, self._endpointer)

    def complete(self) -> Iterator[Chunk]:
        """Yield the chunks needed for the text of all audio so far; none without new audio."""
        if self._has_news:
            yield from self._complete(self._cut(), self._least_silence)

    def wait(self) -> Iterator[Chunk]:
        """Yield a chunk, completed with silence, even if there is no new audio."""
        return self._complete(self._cut(), 0)

    def end(self) -> Chunk:
        """Return the last chunk: the remaining samples, possibly none."""
        self._speech, self.completed = self._cut(), True
        return self._chunker.end()

    def place(self, tokens: Sequence[Token]) -> tuple[Token, ...]:
        """Return the tokens of the last chunk, with frames counted without the silence."""
        return self._timeline.map(tokens)

    def audio_s(self, samples: int) -> float:
        """Convert a position in the sent samples to seconds of audio, without the silence."""
        frame = self._timeline.audio_frame(samples / self._frame_samples)
        return frame * self._frame_ms / 1000

    def utterances(self, text: str, words: Sequence[Word]) -> tuple[Utterance, ...]:
        """Add the result of the last chunk; return the utterance that it ends, if any."""
        if self._endpointer is None:
            return ()
        self._utterances.add(text, words)
        ends = self.completed or self._utterances.is_full
        return self._utterances.end(self._speech if self.completed else None) if ends else ()

    @property
    def ended(self) -> tuple[Utterance, ...]:
        """Return the utterances that have ended so far."""
        return tuple(self._utterances.ended)

    def _split(self, samples: Samples, endpointer: Endpointer) -> Iterator[Chunk]:
        sent = 0
        for end in endpointer.push(samples):
            yield from self._fill(samples[sent : end.offset])
            yield from self._complete(end.speech, silence=0)
            sent = end.offset
        yield from self._fill(samples[sent:])

    def _fill(self, samples: Samples) -> Iterator[Chunk]:
        self._samples += samples.size
        self._has_news |= samples.size > 0
        self.completed = False
        return self._chunker.push(samples)

    def _complete(self, speech: Speech | None, silence: int) -> Iterator[Chunk]:
        """Complete the current chunk, and further ones if needed, with at least `silence` zeros."""
        zeros = self._chunker.missing
        zeros += -(-max(0, silence - zeros) // self._chunk_samples) * self._chunk_samples
        frames = -(-zeros // self._frame_samples)
        self._timeline.insert(self._samples // self._frame_samples, frames)
        *chunks, last = self._chunker.push(np.zeros(frames * self._frame_samples, np.float32))
        yield from chunks
        self._speech, self.completed = speech, True
        self._has_news = False
        yield last

    def _cut(self) -> Speech | None:
        """End the current speech here."""
        return None if self._endpointer is None else self._endpointer.cut()
