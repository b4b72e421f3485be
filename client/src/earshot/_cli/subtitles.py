"""Write words as subtitles, in SRT or WebVTT.

Cues follow common rules (Netflix's timed text guide): two lines of 42 characters, at most seven
seconds, and a new cue after a pause or the end of a sentence.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .._transcript import Word

LINE_CHARACTERS = 42
LINES = 2
LONGEST_CUE_MS = 7000
SHORTEST_CUE_MS = 1000
PAUSE_MS = 800
"""A silence between words that ends a cue."""
SLOWEST_MS = 250
"""A word lasts at most one second plus this for each letter: the rest is a pause."""

_SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！")


@dataclass(frozen=True)
class Cue:
    """The lines that are on the screen at the same time."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


def srt(words: Sequence[Word]) -> str:
    """Return SubRip: numbered cues, with a comma before the milliseconds."""
    blocks = [
        f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n"
        + "\n".join(cue.lines)
        + "\n"
        for number, cue in enumerate(cues(words), start=1)
    ]
    return "\n".join(blocks)


def vtt(words: Sequence[Word]) -> str:
    """Return WebVTT (https://www.w3.org/TR/webvtt1/): a header, and cues with escaped text."""
    blocks = [
        f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n"
        + "\n".join(html.escape(line, quote=False) for line in cue.lines)
        + "\n"
        for cue in cues(words)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def cues(words: Sequence[Word]) -> list[Cue]:
    """Return as few cues as the rules allow, in order; no two overlap in time."""
    groups = list(_grouped([part for word in words for part in _parts(_without_pause(word))]))
    next_starts = [*(group[0].start_ms for group in groups), None][1:]
    return [
        Cue(group[0].start_ms, _end_ms(group, next_start_ms), tuple(_lines(group)))
        for group, next_start_ms in zip(groups, next_starts, strict=True)
    ]


def _grouped(words: Iterable[Word]) -> Iterator[list[Word]]:
    group: list[Word] = []
    for word in words:
        if group and not _belongs(group, word):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _belongs(group: list[Word], word: Word) -> bool:
    """Return whether `word` may be part of the same cue."""
    last = group[-1]
    # A recognizer may emit several words at the same time, but a cue must have a duration.
    return word.start_ms <= group[0].start_ms or (
        word.start_ms - last.end_ms < PAUSE_MS
        and word.end_ms - group[0].start_ms <= LONGEST_CUE_MS
        and not last.text.endswith(_SENTENCE_ENDS)
        and len(_lines([*group, word])) <= LINES
    )


def _lines(words: Sequence[Word]) -> list[str]:
    return textwrap.wrap(
        " ".join(word.text for word in words), LINE_CHARACTERS, break_on_hyphens=False
    )


def _end_ms(group: list[Word], next_start_ms: int | None) -> int:
    """Return the end of a cue: late enough to read it, but before the next one."""
    start_ms = group[0].start_ms
    end_ms = max(group[-1].end_ms, start_ms + SHORTEST_CUE_MS)
    end_ms = min(end_ms, start_ms + LONGEST_CUE_MS)
    return end_ms if next_start_ms is None else min(end_ms, next_start_ms)


def _without_pause(word: Word) -> Word:
    longest_ms = 1000 + SLOWEST_MS * len(word.text)
    return replace(word, end_ms=min(word.end_ms, word.start_ms + longest_ms))


def _parts(word: Word) -> Iterator[Word]:
    """Split a word that is too long for a line or cue; Chinese has no spaces, for example."""
    duration_ms = word.end_ms - word.start_ms
    count = max(-(-len(word.text) // LINE_CHARACTERS), -(-duration_ms // LONGEST_CUE_MS))
    size = -(-len(word.text) // count)
    for first in range(0, len(word.text), size):
        last = min(first + size, len(word.text))
        yield replace(
            word,
            text=word.text[first:last],
            start_ms=word.start_ms + duration_ms * first // len(word.text),
            end_ms=word.start_ms + duration_ms * last // len(word.text),
        )


def _clock(time_ms: int, point: str) -> str:
    seconds, milliseconds = divmod(time_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{milliseconds:03}"
