"""Decode recordings with a recognizer, in a process that does nothing else.

`decode.py` starts it. It reads the paths of the recordings as JSON, and prints the recognizer's
name, then a line of JSON for each recording.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loadtest.audio.recordings import read_samples
from loadtest.compare.recognizers import RECOGNIZERS, Recognizer
from loadtest.options import OtherRecognizer


def main(recognizer: OtherRecognizer) -> None:
    """Decode the recordings that stdin names with a recognizer."""
    # Pin all threads that the recognizer will start to one core, so that its caches stay warm.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    paths = [Path(path) for path in json.load(sys.stdin)]
    loaded = RECOGNIZERS[recognizer]()
    print(loaded.name, flush=True)
    for decoded in decode_all(loaded, paths):
        print(json.dumps(decoded), flush=True)


def decode_all(recognizer: Recognizer, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Return text, number of samples and CPU seconds of each recording.

    The CPU time is that of the whole process, because CTranslate2 computes in a thread of its own.
    """
    for path in paths:
        samples = read_samples(path)
        before_s = time.process_time()
        text = recognizer.transcribe(samples)
        yield {
            "text": text,
            "samples": len(samples),
            "cpu_s": time.process_time() - before_s,
        }


if __name__ == "__main__":
    main(OtherRecognizer(sys.argv[1]))
