"""Render transcripts as text, JSON or subtitles, and choose the files to write them to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from .._files import STDIN, display_name
from .._server_info import OfflineInfo, ServerInfo
from .._transcript import Label, Transcript, Word
from .inputs import Recording
from .subtitles import srt, vtt


class Format(str, Enum):  # noqa: UP042 (Python 3.10 has no StrEnum)
    """The format of a transcript."""

    text = "text"
    json = "json"
    srt = "srt"
    vtt = "vtt"


_ENDINGS = {Format.text: ".txt", Format.json: ".json", Format.srt: ".srt", Format.vtt: ".vtt"}


class Writer:
    """Renders transcripts; `output` is a file, a folder for several files, or None for stdout."""

    def __init__(
        self, form: Format, output: Path | None, files: list[Path], *, split: bool = False
    ) -> None:
        self._form = form
        self._output = output
        self._several = len(files) > 1 or split
        self._into_folder = output is not None and (self._several or output.is_dir())

    def path(self, recording: Recording) -> Path | None:
        """Return the file for the transcript of a recording, or None for stdout."""
        if self._output is None or not self._into_folder:
            return self._output
        name = "stdin" if str(recording.path) == STDIN else recording.path.name
        channel = "" if recording.channel is None else f".{recording.channel}"
        return self._output / f"{name}{channel}{_ENDINGS[self._form]}"

    def render(self, recording: Recording, transcript: Transcript, report: dict[str, Any]) -> str:
        """Return the content of the transcript's file, or its text for stdout."""
        if self._form is Format.json:
            return json.dumps(report, ensure_ascii=False) + "\n"
        if self._form is Format.srt:
            return srt(transcript.words)
        if self._form is Format.vtt:
            return vtt(transcript.words)
        named = self._several and self._output is None
        before = f"{recording.label}: " if named else ""
        lines = [utterance.text for utterance in transcript.utterances] or [transcript.text]
        return "".join(f"{before}{line}\n" for line in lines)


def report(
    recording: Recording, transcript: Transcript, seconds: float, info: ServerInfo | OfflineInfo
) -> dict[str, Any]:
    """Return the JSON object of a transcript."""
    streaming = isinstance(info, ServerInfo)
    return {
        "file": display_name(recording.path),
        **({} if recording.channel is None else {"channel": recording.channel}),
        "text": transcript.text,
        "words": _report_words(transcript.words),
        "utterances": [
            {
                "text": utterance.text,
                "start_ms": utterance.start_ms,
                "end_ms": utterance.end_ms,
                "words": _report_words(utterance.words),
            }
            for utterance in transcript.utterances
        ],
        "failed": [
            {
                "start_s": round(span.start_s, 3),
                "end_s": round(span.end_s, 3),
                "reason": span.reason,
            }
            for span in transcript.failed
        ],
        **_report_labels(transcript.labels),
        "warnings": list(transcript.warnings),
        "duration_s": round(transcript.duration_s, 3),
        "audio_s_per_s": round(transcript.duration_s / seconds, 2),
        "model": info.model,
        "mode": "streaming" if streaming else "offline",
        **({"chunk_ms": info.chunk_ms} if streaming else {}),
    }


def _report_labels(labels: Mapping[str, Label]) -> dict[str, Any]:
    """Return the entry for the labels; without heads there is none."""
    if not labels:
        return {}
    return {
        "labels": {
            head: {"label": label.text, "probability": round(label.probability, 4)}
            for head, label in labels.items()
        }
    }


def _report_words(words: Sequence[Word]) -> list[dict[str, Any]]:
    return [
        {
            "word": word.text,
            "start_ms": word.start_ms,
            "end_ms": word.end_ms,
            "confidence": round(word.confidence, 4),
        }
        for word in words
    ]
