"""Measure the CPU time of the client per chunk, in a process that does nothing else.

`client_cost.py` starts it, with the client to measure, possibly an older one, on PYTHONPATH.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import earshot
import numpy as np

from loadtest.audio.recordings import INT16_PEAK, SAMPLE_RATE_HZ, load_clips

_PIECE = SAMPLE_RATE_HZ // 50
"""Samples sent at a time: 20 ms, as from a microphone."""
_WARM_UP_CHUNKS = 200


def main(url: str, speech: str, chunks: int, timeouts: dict[str, Any], options: Any) -> None:
    """Stream `chunks` chunks, as fast as they are answered; print the microseconds per chunk."""
    chosen: dict[str, Any] = {"options": earshot.StreamOptions(**options)} if options else {}
    joined = np.concatenate([clip.samples for clip in load_clips(Path(speech))])
    samples = np.rint(joined * INT16_PEAK).astype(np.int16)
    with earshot.connect(url, timeouts=earshot.Timeouts(**timeouts)) as client:
        for count in (_WARM_UP_CHUNKS, chunks):
            needed = count * client.info.chunk_samples
            audio = np.tile(samples, 1 + needed // samples.size)[:needed]
            before_s = time.process_time()
            answered = 1  # the one that `finish` sends
            with client.stream(sample_rate_hz=SAMPLE_RATE_HZ, **chosen) as stream:
                for start in range(0, needed, _PIECE):
                    answered += len(stream.send(audio[start : start + _PIECE]))
                stream.finish()
            used_s = time.process_time() - before_s
    print(used_s * 1e6 / answered)


if __name__ == "__main__":
    url, speech, chunks, timeouts, options = sys.argv[1:]
    main(url, speech, int(chunks), json.loads(timeouts), json.loads(options))
