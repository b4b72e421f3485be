"""Transcribe audio files: text, word times, and the spans that failed.

    python examples/file.py recordings/jfk/jfk.flac

EARSHOT_URL names the server; the default is localhost:8001. The server's offline recognizer does
the work if there is one, and its streaming recognizer otherwise.
"""

from __future__ import annotations

import os
import sys

import earshot

URL = os.environ.get("EARSHOT_URL", "localhost:8001")


def main(paths: list[str]) -> int:
    """Print the transcript of each file; return 1 if some audio has no text."""
    failed = False
    with earshot.connect(URL) as client:
        for path in paths:
            try:
                transcript = client.transcribe(path)
            except earshot.EarshotError as error:
                print(f"{path}: {error}", file=sys.stderr)
                failed = True
                continue
            print_transcript(path, transcript)
            failed |= bool(transcript.failed)
    return int(failed)


def print_transcript(path: str, transcript: earshot.Transcript) -> None:
    """Print the text, then one line per word."""
    print(f"{path}: {transcript.text}")
    for word in transcript.words:
        print(f"{word.start_ms / 1000:8.2f} s  {word.confidence:4.0%}  {word.text}")
    for span in transcript.failed:
        print(f"no text from {span.start_s:.1f} s to {span.end_s:.1f} s: {span.reason}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
