"""A fake recognizer: an ensemble like the real one, whose text describes the audio it received.

`write_repository` writes a Triton model repository whose `asr_streaming` has the names, dtypes and
parameters of the real one. Its text has the index, valid length and checksum of every chunk, so
that a test sees what the client sent. Marker values in the audio make it slow, or make it fail.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from earshot import Timeouts, Word

RATE_HZ = 16000
CHUNK_SAMPLES = 1280  # 80 ms: one encoder frame
LEAD_SAMPLES = 1024
FRAME_MS = 80
FIRST = CHUNK_SAMPLES - LEAD_SAMPLES  # audio that fills the first chunk
MAX_TOKENS = 8
MAX_STREAMS = 64

# A sample of exactly this value asks the fake recognizer, for the chunk that holds it, to ...
SLOW = 0.1234567  # answer after SLOW_S, and not before the end of `FakeRecognizer.holding`
FAIL = 0.2345678  # fail with INTERNAL
REFUSE = 0.3456789  # fail with UNAVAILABLE, as a server at capacity does
SLOW_S = 0.6
MARKERS = {"slow": str(SLOW), "fail": str(FAIL), "refuse": str(REFUSE)}

PATIENT = Timeouts(connect_s=60, queue_s=60, chunk_s=60, finish_s=60, close_s=60)
"""For tests in which no deadline should pass, however slow the machine is."""

PARAMETERS = {
    "contract_version": "1",
    "sample_rate_hz": str(RATE_HZ),
    "chunk_ms": str(CHUNK_SAMPLES * 1000 // RATE_HZ),
    "chunk_samples": str(CHUNK_SAMPLES),
    "lead_samples": str(LEAD_SAMPLES),
    "frame_ms": str(FRAME_MS),
    "max_streams": str(MAX_STREAMS),
    "sequence_idle_ms": "30000",
    "checkpoint": "fake",
    "precision": "fp32",
    "runtime": "python",
}

INPUTS = [("AUDIO", "TYPE_FP32", CHUNK_SAMPLES), ("AUDIO_LENGTH", "TYPE_INT32", 1)]
OUTPUTS = [
    ("TEXT", "TYPE_STRING", 1),
    ("TOKENS", "TYPE_INT32", MAX_TOKENS),
    ("TOKEN_FRAMES", "TYPE_INT32", MAX_TOKENS),
    ("TOKEN_LOGPROBS", "TYPE_FP32", MAX_TOKENS),
    ("TOKEN_TEXT_LENGTHS", "TYPE_INT32", MAX_TOKENS),
    ("TOKEN_COUNT", "TYPE_INT32", 1),
]


def write_repository(root: Path, log: Path) -> Path:
    """Write the repository below `root`; its model appends one JSON line per chunk to `log`."""
    recorder = root / "recorder" / "1"
    recorder.mkdir(parents=True)
    (recorder / "model.py").write_text(
        Path(__file__).with_name("fake_recognizer_model.py").read_text()
    )
    (recorder.parent / "config.pbtxt").write_text(_recorder_config(log))
    ensemble = root / "asr_streaming"
    (ensemble / "1").mkdir(parents=True)
    (ensemble / "config.pbtxt").write_text(_ensemble_config())
    return root


@dataclass(frozen=True)
class Chunk:
    """One chunk, as the fake recognizer received it."""

    id: int
    start: int
    end: int
    length: int
    crc: int


@dataclass(frozen=True)
class FakeRecognizer:
    """A running fake recognizer, and the log of its chunks."""

    url: str
    log: Path
    first: int = 0
    """The number of the first chunk that counts."""

    def from_now_on(self) -> FakeRecognizer:
        """Return the same one without what it has received so far."""
        return replace(self, first=self.first + len(self.chunks()))

    def chunks(self) -> list[Chunk]:
        """Return all chunks received so far, oldest first."""
        if not self.log.exists():
            return []
        lines = self.log.read_text().splitlines()[self.first :]
        return [Chunk(**json.loads(line)) for line in lines]

    @contextmanager
    def holding(self) -> Generator[None]:
        """Let slow chunks wait for the end of the block, however slow the machine is."""
        held = _hold(self.log)
        held.touch()
        try:
            yield
        finally:
            held.unlink()

    def streams_left_open(self) -> set[int]:
        """Return the ids of the streams that were started and not ended."""
        chunks = self.chunks()
        return {c.id for c in chunks if c.start} - {c.id for c in chunks if c.end}


def expected_words(samples: npt.NDArray[Any]) -> list[str]:
    """Return the answer to a stream of these samples at the model's rate."""
    stream = np.concatenate((np.zeros(LEAD_SAMPLES, np.float32), samples))
    words: list[str] = []
    for index, first in enumerate(range(0, len(stream), CHUNK_SAMPLES)):
        valid = stream[first : first + CHUNK_SAMPLES]
        chunk = np.pad(valid, (0, CHUNK_SAMPLES - len(valid)))
        words.append(f"{index}:{len(valid)}:{zlib.crc32(chunk.astype('<f4').tobytes()):08x}é")
    return words


def noise(samples: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Return audio for a test."""
    return np.random.default_rng(seed).uniform(-0.1, 0.1, samples).astype(np.float32)


def chunk(marker: float | None = None) -> npt.NDArray[np.float32]:
    """Return the audio of one chunk; the marker asks for a delay or a failure."""
    samples = noise(CHUNK_SAMPLES, seed=1)
    if marker is not None:
        samples[0] = marker
    return samples


def texts(words: Iterable[Word]) -> list[str]:
    """Return the words without times and confidences."""
    return [word.text for word in words]


def _hold(log: Path) -> Path:
    """Return the file beside the log for whose end slow chunks wait."""
    return log.with_name(f"{log.name}.hold")


def _recorder_config(log: Path) -> str:
    return f"""
backend: "python"
max_batch_size: {MAX_STREAMS}
{_tensors("input", INPUTS)}
{_tensors("output", OUTPUTS)}
sequence_batching {{
  max_sequence_idle_microseconds: 30000000
  oldest {{ max_candidate_sequences: {MAX_STREAMS} }}
  control_input [
    {_control("START", "CONTROL_SEQUENCE_START")},
    {_control("END", "CONTROL_SEQUENCE_END")},
    {{ name: "CORRID" control [ {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }} ] }}
  ]
}}
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
{_parameters({"log": str(log), "hold": str(_hold(log)), "slow_s": str(SLOW_S), **MARKERS})}
"""


def _ensemble_config() -> str:
    input_map = " ".join(f'input_map {{ key: "{n}" value: "{n}" }}' for n, _, _ in INPUTS)
    output_map = " ".join(f'output_map {{ key: "{n}" value: "{n}" }}' for n, _, _ in OUTPUTS)
    return f"""
platform: "ensemble"
max_batch_size: {MAX_STREAMS}
{_tensors("input", INPUTS)}
{_tensors("output", OUTPUTS)}
ensemble_scheduling {{
  step [ {{ model_name: "recorder" model_version: -1 {input_map} {output_map} }} ]
}}
{_parameters(PARAMETERS)}
"""


def _tensors(kind: str, tensors: list[tuple[str, str, int]]) -> str:
    return "\n".join(
        f'{kind} {{ name: "{name}" data_type: {dtype} dims: [ {size} ] }}'
        for name, dtype, size in tensors
    )


def _control(name: str, kind: str) -> str:
    return f'{{ name: "{name}" control [ {{ kind: {kind} int32_false_true: [ 0, 1 ] }} ] }}'


def _parameters(values: dict[str, str]) -> str:
    return "\n".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
        for key, value in values.items()
    )
