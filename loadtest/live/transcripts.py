"""Compare the transcripts under load with reference transcripts of one stream alone.

A server that mixes up its streams may still answer in time. So every stream that ends is compared,
in tokens and text, over the chunks that were sent; a script that was sent completely is compared to
the end, and its word errors are counted.

In float32 the text of a stream must not depend on the other streams in the batch. In a lower
precision it may depend on them slightly (int8 activations share their scale over a batch, and the
rounding of half precision depends on the batch size): a stream then counts as different only if
more than an allowed share of its tokens differ, and more than two. The share is a quarter by
default; random weights amplify rounding and need a larger one. A stream that got another stream's
text differs in nearly all of its tokens, unless both send the same recordings at nearly the same
time. With the bundled recordings, of which scripts of 20 s share a large part, a limit of 0.25
finds nine of ten such streams, and 0.8 finds six of ten; one is enough for a level to fail. The
largest share is recorded, which shows how much of the allowance was used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from earshot import Client
from rapidfuzz.distance import Levenshtein

from loadtest.audio.recordings import SAMPLE_RATE_HZ
from loadtest.audio.scripts import Script
from loadtest.audio.word_errors import count_errors, total
from loadtest.live.samples import FinishedStream
from loadtest.options import LoadOptions
from loadtest.result.document import default_allowed_change

ALLOWED_TOKENS = 2
"""Number of tokens that may always differ if any may, because in a short stream a few are a large
share."""


@dataclass(frozen=True)
class Reference:
    """Output for a script on one stream alone, after each of its chunks and at its end."""

    tokens: list[tuple[int, ...]]
    texts: list[str]

    def up_to(self, stream: FinishedStream) -> tuple[tuple[int, ...], str]:
        """Return the tokens and the text of the part that `stream` has sent."""
        last = len(self.tokens) if stream.complete else stream.chunks
        joined = tuple(token for tokens in self.tokens[:last] for token in tokens)
        return joined, "".join(self.texts[:last])


@dataclass(frozen=True)
class TranscriptCheck:
    """Comparison of all streams of a level with the reference."""

    compared: int
    different: int
    changed: int
    """Streams with any change, including changes that the precision allows."""
    example: str
    wer: float | None
    largest_change: float = 0.0
    """Largest share of the tokens of a stream that differ from its reference; changes of
    `ALLOWED_TOKENS` or fewer do not count."""


def allowed_change(options: LoadOptions, precision: str) -> float:
    """Return the share of a stream's tokens that may differ, from `options` or by precision."""
    if options.allowed_change is None:
        return default_allowed_change(precision)
    return options.allowed_change


class TranscriptComparer:
    """Compares streams with the reference transcripts of one server.

    Args:
        scripts: The scripts that live users send.
        references: The reference transcript of each script.
        allowed_change: Share of a stream's tokens that may differ from its reference.
    """

    def __init__(
        self, scripts: Sequence[Script], references: Sequence[Reference], allowed_change: float
    ) -> None:
        self._scripts = scripts
        self._references = references
        self._allowed_change = allowed_change

    def compare(self, streams: Sequence[FinishedStream]) -> TranscriptCheck:
        """Compare each of `streams` with the reference of its script."""
        different, changed, largest_change, example = 0, 0, 0.0, ""
        for stream in streams:
            tokens, text = self._references[stream.script].up_to(stream)
            if tokens == stream.tokens and text == stream.text:
                continue
            changed += 1
            share = _changed_share(tokens, stream.tokens)
            largest_change = max(largest_change, share)
            if not self._allowed_change or share > self._allowed_change or tokens == stream.tokens:
                different += 1
                example = _difference(stream.text, text)
        return TranscriptCheck(
            len(streams), different, changed, example, self._wer(streams), largest_change
        )

    def _wer(self, streams: Sequence[FinishedStream]) -> float | None:
        # Hundreds of streams have the same text, so the errors of each text are counted only once.
        texts = Counter(
            (transcript, stream.text)
            for stream in streams
            if stream.complete
            and (transcript := self._scripts[stream.script].transcript) is not None
        )
        errors = count_errors([transcript for transcript, _ in texts], [text for _, text in texts])
        counted = zip(errors, texts.values(), strict=True)
        every = total(each for each, count in counted for _ in range(count))
        return every.rate if every.words else None


def _changed_share(reference: Sequence[int], tokens: Sequence[int]) -> float:
    """Return the changed tokens as a share of the longer output; 0 if they are few."""
    changed = Levenshtein.distance(reference, tokens)
    return 0.0 if changed <= ALLOWED_TOKENS else changed / max(len(reference), len(tokens))


def _difference(text: str, reference: str) -> str:
    """Quote both texts around the first difference."""
    pairs = enumerate(zip(text, reference, strict=False))
    same = next((at for at, (a, b) in pairs if a != b), min(len(text), len(reference)))
    part = slice(max(0, same - 20), same + 30)
    return f"{text[part]!r} where the reference has {reference[part]!r}"


def record_reference(
    client: Client, scripts: Sequence[Script], progress: Callable[[int], None]
) -> list[Reference]:
    """Transcribe each script on one stream alone, as fast as the server answers.

    Args:
        client: Client of the idle server.
        scripts: The scripts that live users will send.
        progress: Called with the number of scripts done.

    Raises:
        ValueError: The server outputs no text for any script, so nothing could be compared.
    """
    references: list[Reference] = []
    for number, script in enumerate(scripts):
        with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
            results = [*stream.send(script.samples), *stream.end()]
        tokens = [tuple(token.id for token in result.tokens) for result in results]
        references.append(Reference(tokens, [result.text for result in results]))
        progress(number + 1)
    if not any(token for reference in references for token in reference.tokens):
        raise ValueError(
            f"expected a transcript to compare the streams under load with, got no word for "
            f"{len(scripts)} scripts of speech: choose other recordings (--speech)"
        )
    return references
