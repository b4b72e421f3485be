"""Instances of a model that share one engine, in a process of its own.

The engine is a small one of ONNX Runtime, which starts quickly; that of torch is shared in a whole
service (`tests/service/test_torch_service.py`).
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import sys
import termios
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from server.backends.earshot.earshot_runtime.errors import BadStage, EngineFailed
from server.backends.earshot.earshot_runtime.shared_engine import SharedEngine, join_engine
from server.backends.earshot.earshot_runtime.spec import AdapterSpec, StageSpec
from server.heartbeats import read_heartbeats
from tests.support.launcher import children, stop_process, wait_for
from tests.support.toy_repository import adapted_summer_graph, save, write_toy_repository
from tests.support.toy_stages import model_config

INSTANCES, STREAMS, MOST_ROWS = 3, 8, 16


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    repository = write_toy_repository(tmp_path / "repository", max_streams=STREAMS)
    (repository / "summer" / "1" / "adapted").mkdir()
    save(adapted_summer_graph(), repository / "summer" / "1" / "adapted" / "model.onnx")
    return repository


@pytest.fixture
def spec(repository: Path) -> StageSpec:
    adapters = AdapterSpec(2, ("summer",), ((1, 1),), "toy_streaming", "abc")
    spec = StageSpec.from_model_config(model_config(repository, "summer"))
    return replace(spec, instances=INSTANCES, adapters=adapters)


@pytest.fixture
def engines(repository: Path, spec: StageSpec, tmp_path: Path) -> Iterator[list[SharedEngine]]:
    engines = [each.result() for each in joining(repository, spec, tmp_path)]
    yield engines
    engines.clear()
    gc.collect()
    wait_for(lambda: not engine_processes())


def joining(repository: Path, spec: StageSpec, meeting: Path) -> list[Future[SharedEngine]]:
    """Join as the instances of a model do: all at the same time."""
    folder = repository / "summer" / "1"
    with ThreadPoolExecutor(INSTANCES) as pool:
        return [pool.submit(join_engine, folder, spec, meeting) for _ in range(INSTANCES)]


def engine_processes() -> set[int]:
    """Return the processes that this one has started for engines."""
    found: set[int] = set()
    for pid in children(os.getpid()):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended at this moment
            if "engine_process" in Path(f"/proc/{pid}/cmdline").read_text():
                found.add(pid)
    return found


@contextmanager
def running_together(engines: list[SharedEngine]) -> Generator[ThreadPoolExecutor]:
    """Stop the engine's process until each of `engines` has asked it for something."""
    [process] = engine_processes()
    with ThreadPoolExecutor(INSTANCES) as pool:
        stop_process(process)
        try:
            yield pool
            wait_for(lambda: all(unread_bytes(engine) for engine in engines))
        finally:
            os.kill(process, signal.SIGCONT)


def unread_bytes(engine: SharedEngine) -> int:
    """Return the bytes of requests that the process of the engine has not read yet."""
    size = fcntl.ioctl(engine._connection.fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(size, sys.byteorder)


def batches(folder: Path) -> int:
    """Return the batches that the engine has run, by its heartbeat."""
    [beat] = read_heartbeats(folder)
    return sum(value for name, labels, value in beat["metrics"] if labels == {"le": "+Inf"})


def run(
    engine: SharedEngine,
    values: Sequence[float],
    slots: Sequence[int],
    *,
    starts: bool = False,
    adapters: Sequence[int] | None = None,
) -> list[float]:
    """Add a chunk with a sum of 1,000 times `values` to the streams; return their sums so far."""
    rows = len(slots)
    audio = engine.inputs["AUDIO"]
    audio[:rows] = np.array(values)[:, None] * 1000 / audio.shape[1]
    given = None if adapters is None else np.array(adapters)
    engine.run(np.array(slots), np.full(rows, starts), given)
    return [round(float(total)) for total in engine.outputs["SUM"][:rows, 0]]


def test_each_instance_has_slots_of_its_own(engines: list[SharedEngine]) -> None:
    """Three batches of seven rows do not fit one run of sixteen."""
    slots = [4, 0, 7, 1, 6, 2, 5]

    def transcribe(number: int) -> list[list[float]]:
        values = [0.001 * (1 + number) * (1 + row) for row in range(7)]
        return [run(engines[number], values, slots, starts=step == 0) for step in range(50)]

    assert INSTANCES * len(slots) > MOST_ROWS >= 2 * len(slots)
    with ThreadPoolExecutor(INSTANCES) as pool:
        found = list(pool.map(transcribe, range(INSTANCES)))
    assert found == [
        [[(step + 1) * (1 + number) * (1 + row) for row in range(7)] for step in range(50)]
        for number in range(INSTANCES)
    ]


def test_the_spare_slot_is_that_of_all_instances(engines: list[SharedEngine]) -> None:
    """A canary, which has it, changes no stream of any instance."""
    for engine in engines:
        assert run(engine, [0.001] * STREAMS, range(STREAMS), starts=True) == [1] * STREAMS
    for number, engine in enumerate(engines):
        values = [0.001 * (2 + number), 0.001 * (3 + number)]
        assert run(engine, values, [STREAMS] * 2, starts=True) == [2 + number, 3 + number]
    for engine in engines:
        assert run(engine, [0.001] * STREAMS, range(STREAMS)) == [2] * STREAMS


def test_each_instance_has_adapters_of_its_own(engines: list[SharedEngine]) -> None:
    for number, engine in enumerate(engines):
        engine.store_adapter(1, [np.full((1, 1), 100.0 * (1 + number), np.float32)])
    adapted = [run(engine, [0, 0], [3, 5], starts=True, adapters=[1, 0]) for engine in engines]
    assert adapted == [[100, 0], [200, 0], [300, 0]]
    assert run(engines[0], [0, 0], [3, 5]) == [100, 0]


def test_batches_that_wait_are_run_together(engines: list[SharedEngine], tmp_path: Path) -> None:
    with running_together(engines) as pool:
        running = [pool.submit(run, engine, [0.001], [0], starts=True) for engine in engines]
    assert [each.result() for each in running] == [[1], [1], [1]]
    wait_for(lambda: batches(tmp_path) == 1)


def test_a_batch_that_fails_fails_alone(engines: list[SharedEngine]) -> None:
    """It waits together with the others."""
    for engine in engines[1:]:
        assert run(engine, [0.001], [0], starts=True) == [1]
    with running_together(engines) as pool:
        failing = pool.submit(run, engines[0], [0.001], [10_000], starts=True)
        running = [pool.submit(run, engine, [0.001], [0]) for engine in engines[1:]]
    assert [each.result() for each in running] == [[2], [2]]
    with pytest.raises(EngineFailed, match="Error"):
        failing.result()
    assert run(engines[0], [0.001], [0], starts=True) == [1]


def test_the_process_ends_with_its_last_instance(
    repository: Path, spec: StageSpec, tmp_path: Path, engines: list[SharedEngine]
) -> None:
    [first] = engine_processes()
    del engines[1:]
    assert run(engines[0], [0.001], [0], starts=True) == [1]
    # A model that is loaded again has another engine, beside the one that is still in use.
    again = [each.result() for each in joining(repository, spec, tmp_path)]
    assert run(again[0], [0.005], [0], starts=True) == [5]
    assert run(engines[0], [0.001], [0]) == [2]
    assert len(engine_processes()) == 2
    engines.clear()
    gc.collect()
    wait_for(lambda: first not in engine_processes())
    assert run(again[0], [0.005], [0]) == [10]
    again.clear()


def test_a_process_that_is_killed_is_reported(engines: list[SharedEngine]) -> None:
    [process] = engine_processes()
    os.kill(process, signal.SIGKILL)
    for engine in engines:
        with pytest.raises(EngineFailed, match="has ended"):
            run(engine, [0.001], [0], starts=True)


def test_what_is_wrong_with_the_files_is_said_by_every_instance(
    repository: Path, spec: StageSpec, tmp_path: Path
) -> None:
    (repository / "summer" / "1" / "model.onnx").write_bytes(b"damaged")
    for each in joining(repository, spec, tmp_path):
        assert isinstance(each.exception(), BadStage)
        assert "model.onnx" in str(each.exception())
    wait_for(lambda: not engine_processes())
