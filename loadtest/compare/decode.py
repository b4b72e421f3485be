"""Decode recordings with another recognizer in a process of its own, and measure its CPU time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from loadtest.audio.recordings import SAMPLE_RATE_HZ, LabelledRecording
from loadtest.compare.recognizers import RECOGNIZERS
from loadtest.options import PROJECT, OtherRecognizer

# Idle threads of OpenMP and OpenBLAS wait in busy loops, which would count as CPU time.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class DecodingFailed(Exception):
    """The process of a recognizer failed."""


@dataclass(frozen=True)
class Decoded:
    """Transcripts of a recognizer, and the CPU time that they took."""

    name: str
    texts: list[str]
    audio_s: float
    cpu_s: float

    @property
    def streams_per_core(self) -> float:
        """Return the seconds of audio per second of CPU time: the inverse real-time factor."""
        return self.audio_s / self.cpu_s


def decode(
    recognizer: OtherRecognizer,
    recordings: Sequence[LabelledRecording],
    advance: Callable[[], None],
) -> Decoded:
    """Decode `recordings` one after the other, on one core.

    CPU time includes only the decoding, not reading files or loading the models.

    Args:
        recognizer: Recognizer to use.
        recordings: Recordings to decode.
        advance: Called after each recording.

    Raises:
        DecodingFailed: The process of the recognizer failed; its own message is on stderr.
    """
    texts: list[str] = []
    samples, cpu_s = 0, 0.0
    with _worker(recognizer) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        json.dump([str(recording.path.resolve()) for recording in recordings], worker.stdin)
        worker.stdin.close()
        name = worker.stdout.readline().strip()
        for done in map(json.loads, worker.stdout):
            texts.append(done["text"])
            samples += done["samples"]
            cpu_s += done["cpu_s"]
            advance()
    return Decoded(name, texts, samples / SAMPLE_RATE_HZ, cpu_s)


@contextmanager
def _worker(recognizer: OtherRecognizer) -> Generator[subprocess.Popen[str]]:
    """Start the process, and kill it if the block fails; Ctrl-C reaches only this process."""
    with subprocess.Popen(
        [sys.executable, "-m", "loadtest.compare.decode_worker", recognizer],
        cwd=PROJECT,
        env=os.environ | ONE_THREAD,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as worker:
        try:
            yield worker
        except BaseException:
            worker.kill()
            raise
    if worker.returncode:
        title = RECOGNIZERS[recognizer].TITLE
        raise DecodingFailed(f"{title} ended with {worker.returncode} before it was done")
