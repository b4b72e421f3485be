"""Run the same ONNX files in a bare loop, with one thread and full batches, for comparison.

Without server, transport or queue, it shows the cost of the network itself. The state stays in
place, and every step advances the same streams. The export runs a chain of the same files to verify
them; load tests only know the model repository, so these few lines are repeated here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from loadtest.audio.recordings import Audio
from loadtest.audio.scripts import loop_from
from loadtest.service.stages import FUSED, STAGES, model_name


@dataclass(frozen=True)
class BareLoop:
    """CPU time of one chunk of one stream in the bare loop, by stage."""

    batch: int
    cpu_ms_per_chunk: dict[str, float]

    @property
    def total_ms(self) -> float:
        """Return the CPU time of all stages."""
        return sum(self.cpu_ms_per_chunk.values())


def run_bare_loop(
    repository: Path,
    recognizer: str,
    speech: Audio,
    batch: int,
    chunk_samples: int,
    steps: int = 60,
) -> BareLoop:
    """Run `batch` streams of `speech` through the stages of a recognizer of `repository`."""
    fused = (repository / model_name(recognizer, FUSED[0])).is_dir()
    names = FUSED if fused else STAGES
    stages = {name: _Stage(repository / model_name(recognizer, name), batch) for name in names}
    lengths = np.full((batch, 1), chunk_samples, dtype=np.int32)
    spent_s = dict.fromkeys(names, 0.0)
    warm_up = steps // 4
    for step in range(warm_up + steps):
        if step == warm_up:
            spent_s = dict.fromkeys(names, 0.0)
        audio = [
            loop_from(speech, (stream * 7919 + step) * chunk_samples, chunk_samples)
            for stream in range(batch)
        ]
        tensors: list[NDArray[Any]] = [np.stack(audio), lengths]
        for name, stage in stages.items():
            before = time.process_time()
            tensors = stage.step(tensors)[:2]
            spent_s[name] += time.process_time() - before
    per_chunk = {name: 1000 * seconds / (steps * batch) for name, seconds in spent_s.items()}
    return BareLoop(batch, per_chunk)


class _Stage:
    """An ONNX Runtime session and the state pool of its streams."""

    def __init__(self, folder: Path, batch: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            folder / "1" / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        shapes = {tensor.name: tensor.shape for tensor in self._session.get_inputs()}
        pools = [name for name in shapes if name.startswith("POOL")]
        self._inputs = [name for name in shapes if name not in (*pools, "SLOTS")]
        self._pools = {
            name: np.zeros((batch, rows, shapes[name][1]), dtype=np.float32)
            for name, rows in zip(pools, _state_rows(folder), strict=True)
        }
        self._slots = np.arange(batch)

    def step(self, tensors: list[NDArray[Any]]) -> list[NDArray[Any]]:
        feed = dict(zip(self._inputs, tensors, strict=True))
        feed |= {name: pool.reshape(-1, pool.shape[2]) for name, pool in self._pools.items()}
        feed["SLOTS"] = self._slots
        results = cast(list[NDArray[Any]], self._session.run(None, feed))
        updates = results[-2 * len(self._pools) :]
        for pool, update, rows in zip(
            self._pools.values(), updates[::2], updates[1::2], strict=True
        ):
            pool[self._slots[:, None], rows] = update
        return results[: -len(updates)]


def _state_rows(folder: Path) -> list[int]:
    """Return the number of rows of each state of one stream, from the backend's config."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    config: Any = model_config_pb2.ModelConfig()  # pyright: ignore
    text_format.Parse((folder / "config.pbtxt").read_text(), config)
    return [int(rows) for rows in config.parameters["state_rows"].string_value.split(",")]
