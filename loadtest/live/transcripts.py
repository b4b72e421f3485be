"""What the streams under load were told, compared with what one quiet stream was told.

A server that mixes up its streams answers in time, too. Every stream that ends is compared, token
for token and in its text, over the chunks it has spoken; a script spoken to its end is compared to
the end, and scored against what was said.

In float32 the text of a stream must not depend on its neighbours. With a lower precision it may a
little (int8 activations share their scale over a batch): there a stream counts as different only
when more than a quarter of its tokens are, and more than two, as when it has got another stream's
text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from earshot import Client
from rapidfuzz.distance import Levenshtein

from loadtest.samples import Spoken
from loadtest.speech import SAMPLE_RATE_HZ, Script
from loadtest.word_errors import score, total

ALLOWED_CHANGE = {"fp32": 0.0}
ALLOWED_CHANGE_ELSE = 0.25
"""Share of a stream's tokens that may differ from the quiet stream's, by precision."""
ALLOWED_TOKENS = 2
"""So many may in any case where any may: of a stream that was cut short they are a large share."""


@dataclass(frozen=True)
class Quiet:
    """What one stream alone is told for a script, after each of its chunks, then at its end."""

    tokens: list[tuple[int, ...]]
    texts: list[str]

    def after(self, spoken: Spoken) -> tuple[tuple[int, ...], str]:
        """Tokens and text of the part that ``spoken`` has spoken."""
        last = len(self.tokens) if spoken.complete else spoken.chunks
        told = tuple(token for tokens in self.tokens[:last] for token in tokens)
        return told, "".join(self.texts[:last])


@dataclass(frozen=True)
class Comparison:
    """All streams of a level against the quiet ones."""

    compared: int
    different: int
    changed: int
    """Streams with any change at all, also one that the precision allows."""
    example: str
    wer: float | None


class Comparer:
    """Holds the quiet transcripts of one server."""

    def __init__(self, scripts: Sequence[Script], quiet: Sequence[Quiet], precision: str) -> None:
        self._scripts = scripts
        self._quiet = quiet
        self._allowed = ALLOWED_CHANGE.get(precision, ALLOWED_CHANGE_ELSE)

    def compare(self, spoken: Sequence[Spoken]) -> Comparison:
        """Compare every stream of ``spoken``."""
        different, changed, example = 0, 0, ""
        for stream in spoken:
            tokens, text = self._quiet[stream.script].after(stream)
            if tokens == stream.tokens and text == stream.text:
                continue
            changed += 1
            if self._is_different(tokens, stream.tokens) or tokens == stream.tokens:
                different += 1
                example = _difference(stream.text, text)
        return Comparison(len(spoken), different, changed, example, self._wer(spoken))

    def _is_different(self, quiet: Sequence[int], heard: Sequence[int]) -> bool:
        if not self._allowed:
            return quiet != heard
        changed = Levenshtein.distance(quiet, heard)
        longest = max(len(quiet), len(heard))
        return changed > max(ALLOWED_TOKENS, self._allowed * longest)

    def _wer(self, spoken: Sequence[Spoken]) -> float | None:
        # Hundreds of streams were told the same text: each is scored once.
        heard = Counter(
            (said, stream.text)
            for stream in spoken
            if stream.complete and (said := self._scripts[stream.script].said) is not None
        )
        scores = score([said for said, _ in heard], [text for _, text in heard])
        counted = zip(scores, heard.values(), strict=True)
        every = total(each for each, count in counted for _ in range(count))
        return every.rate if every.words else None


def _difference(heard: str, quiet: str) -> str:
    """Where two texts part, with a few words around."""
    pairs = enumerate(zip(heard, quiet, strict=False))
    same = next((at for at, (a, b) in pairs if a != b), min(len(heard), len(quiet)))
    part = slice(max(0, same - 20), same + 30)
    return f"{heard[part]!r} where a quiet stream has {quiet[part]!r}"


def hear_quietly(
    client: Client, scripts: Sequence[Script], progress: Callable[[int], None]
) -> list[Quiet]:
    """Speak each script on a stream of its own, one after the other, as fast as it is answered.

    Args:
        progress: is told how many scripts have been heard.

    Raises:
        ValueError: there is no text in any of them, so nothing could be compared.
    """
    quiet: list[Quiet] = []
    for number, script in enumerate(scripts):
        with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
            results = [*stream.send(script.samples), *stream.end()]
        tokens = [tuple(token.id for token in result.tokens) for result in results]
        quiet.append(Quiet(tokens, [result.text for result in results]))
        progress(number + 1)
    if not any(token for script in quiet for token in script.tokens):
        raise ValueError(
            f"the server hears no word in {len(scripts)} scripts of speech: expected text to "
            "compare the streams under load with; speak something else (--speech)"
        )
    return quiet
