"""The adapters of a stage: found by name, read when needed, kept while a stream has them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from server.backends.earshot.earshot_runtime.adapter_files import AdapterFiles
from server.backends.earshot.earshot_runtime.adapters import LoadedAdapters, StreamAdapters
from server.backends.earshot.earshot_runtime.chunks import Outcome
from server.backends.earshot.earshot_runtime.counts import ADAPTER_STREAMS
from server.backends.earshot.earshot_runtime.engines import open_engine
from server.backends.earshot.earshot_runtime.errors import (
    AdaptersFull,
    BadAdapter,
    BadStage,
    ChunkError,
    UnknownAdapter,
)
from server.backends.earshot.earshot_runtime.sequences import SequenceStage
from server.backends.earshot.earshot_runtime.spec import AdapterSpec, StageSpec
from tests.support.toy_repository import (
    adapted_summer_graph,
    save,
    summer_graph,
    write_toy_repository,
)
from tests.support.toy_stages import model_config, summer_chunks

ROWS, WIDTH, CAPACITY, STREAMS = 3, 4, 2, 8
IN_MEMORY, LOADED = ("earshot_adapters", ()), ("earshot_loaded_adapters_total", ())
SPEC = AdapterSpec(CAPACITY, ("encoder",), ((ROWS, WIDTH),), "asr_streaming", "abc")


class Pools:
    """Notes what is written into each slot."""

    def __init__(self) -> None:
        self.slots: dict[int, float] = {}

    def store_adapter(self, slot: int, rows: list[npt.NDArray[np.float32]]) -> None:
        [values] = rows
        self.slots[slot] = float(values[0, 0])


def install(
    repository: Path,
    name: str,
    value: float,
    base: str = "abc",
    shape: tuple[int, int] = (ROWS, WIDTH),
) -> Path:
    path = repository / f"{name}_asr_streaming" / "1" / "adapter.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    values = np.full(shape, value, np.float32)
    save_file({"encoder": values, "decoder": values}, new, {"base_sha256": base})
    new.replace(path)
    return path


@pytest.fixture
def pools() -> Pools:
    return Pools()


@pytest.fixture
def adapters(tmp_path: Path, pools: Pools) -> StreamAdapters:
    for number, name in enumerate(("clinic", "court", "coffee"), start=1):
        install(tmp_path, name, number)
    return StreamAdapters(LoadedAdapters(AdapterFiles(tmp_path, SPEC), pools, CAPACITY), STREAMS)


def values_of(adapters: StreamAdapters, pools: Pools, slots: list[int]) -> list[float]:
    return [pools.slots.get(int(slot), 0.0) for slot in adapters.of(np.array(slots))]


def test_each_stream_gets_its_own(adapters: StreamAdapters, pools: Pools) -> None:
    for slot, name in enumerate(("clinic", "", "court", "clinic")):
        adapters.assign(slot, name, [0, 1, 2, 3])
    assert values_of(adapters, pools, [0, 1, 2, 3]) == [1.0, 0.0, 2.0, 1.0]
    assert adapters.metrics([0, 1, 2, 3]) == {
        IN_MEMORY: 2,
        LOADED: 2,
        (ADAPTER_STREAMS, (("adapter", "clinic"),)): 2,
        (ADAPTER_STREAMS, (("adapter", "court"),)): 1,
    }


def test_a_slot_forgets_the_adapter_of_the_stream_before(adapters: StreamAdapters) -> None:
    adapters.assign(0, "clinic", [0])
    adapters.assign(0, "", [0])
    assert adapters.of(np.array([0])).tolist() == [0]
    adapters.assign(0, "clinic", [0])
    with pytest.raises(UnknownAdapter):
        adapters.assign(0, "tavern", [0])
    assert adapters.of(np.array([0])).tolist() == [0]


def test_the_least_recently_used_one_makes_room(adapters: StreamAdapters, pools: Pools) -> None:
    adapters.assign(0, "clinic", [0])
    adapters.assign(1, "court", [0, 1])
    adapters.assign(2, "clinic", [0, 1, 2])
    # The streams of both have ended.
    adapters.assign(3, "coffee", [3])
    assert values_of(adapters, pools, [3]) == [3.0]
    adapters.assign(4, "clinic", [3, 4])
    assert adapters.metrics([])[LOADED] == 3, "clinic was used after court, and stayed"
    adapters.assign(5, "court", [4, 5])
    assert values_of(adapters, pools, [4, 5]) == [1.0, 2.0]
    assert adapters.metrics([]) == {LOADED: 4, IN_MEMORY: CAPACITY}


def test_what_open_streams_have_stays(adapters: StreamAdapters, pools: Pools) -> None:
    adapters.assign(0, "clinic", [0])
    adapters.assign(1, "court", [0, 1])
    with pytest.raises(AdaptersFull, match="holds 2 adapters at once"):
        adapters.assign(2, "coffee", [0, 1, 2])
    adapters.assign(2, "", [0, 1, 2])
    assert values_of(adapters, pools, [0, 1, 2]) == [1.0, 2.0, 0.0]
    adapters.assign(2, "coffee", [1, 2])
    assert values_of(adapters, pools, [1, 2]) == [2.0, 3.0]


def test_a_new_file_is_a_new_adapter(
    tmp_path: Path, adapters: StreamAdapters, pools: Pools
) -> None:
    adapters.assign(0, "clinic", [0])
    path = install(tmp_path, "clinic", 7.0)
    os.utime(path, ns=(1, 1))
    adapters.assign(1, "clinic", [0, 1])
    assert values_of(adapters, pools, [0, 1]) == [1.0, 7.0]


@pytest.mark.parametrize(
    "name", ["tavern", "../clinic", "clinic/../court", ".", "Clinic", "a" * 999]
)
def test_a_name_that_is_not_there(adapters: StreamAdapters, name: str) -> None:
    with pytest.raises(UnknownAdapter, match=r"it has clinic, coffee, court: install it"):
        adapters.assign(0, name, [0])


def test_many_names_are_not_all_listed(tmp_path: Path, adapters: StreamAdapters) -> None:
    for number in range(30):
        install(tmp_path, f"shop{number:02}", 1.0)
    with pytest.raises(UnknownAdapter, match=r"shop16, \.\.\.: install"):
        adapters.assign(0, "tavern", [0])


def test_adapters_of_other_bases_are_not_listed(tmp_path: Path, adapters: StreamAdapters) -> None:
    install(tmp_path, "bakery", 1.0, base="abd")
    install(tmp_path, "broken", 1.0).write_bytes(b"no tensors")
    with pytest.raises(UnknownAdapter, match="it has clinic, coffee, court: install"):
        adapters.assign(0, "tavern", [0])


def test_no_adapter_is_there(tmp_path: Path, pools: Pools) -> None:
    adapters = StreamAdapters(
        LoadedAdapters(AdapterFiles(tmp_path, SPEC), pools, CAPACITY), STREAMS
    )
    with pytest.raises(UnknownAdapter, match="it has none"):
        adapters.assign(0, "clinic", [0])


@pytest.mark.parametrize(
    ("base", "shape", "value", "message"),
    [
        ("abd", (ROWS, WIDTH), 1.0, "installed for other weights"),
        ("abc", (ROWS + 1, WIDTH), 1.0, r"expected finite float32 \[3, 4\]"),
        ("abc", (ROWS, WIDTH * 2), 1.0, r"\[3, 4\], got float32 \[3, 8\]; install it again"),
        ("abc", (ROWS, WIDTH), np.nan, r"expected finite float32 \[3, 4\]"),
    ],
)
def test_one_that_does_not_fit(
    tmp_path: Path,
    adapters: StreamAdapters,
    base: str,
    shape: tuple[int, int],
    value: float,
    message: str,
) -> None:
    install(tmp_path, "tavern", value, base, shape)
    with pytest.raises(BadAdapter, match=message):
        adapters.assign(0, "tavern", [0])
    assert adapters.metrics([])[IN_MEMORY] == 0


def test_a_slot_is_not_lost_if_an_adapter_cannot_be_stored(
    adapters: StreamAdapters, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(slot: int, rows: list[npt.NDArray[np.float32]]) -> None:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(pools, "store_adapter", fail)
        for _ in range(CAPACITY + 1):
            with pytest.raises(MemoryError):
                adapters.assign(0, "clinic", [0])
    adapters.assign(0, "clinic", [0])
    assert values_of(adapters, pools, [0]) == [1]


def test_a_damaged_file(tmp_path: Path, adapters: StreamAdapters) -> None:
    install(tmp_path, "tavern", 1.0).write_bytes(b"no tensors")
    with pytest.raises(BadAdapter, match="'tavern' cannot be read") as refusal:
        adapters.assign(0, "tavern", [0])
    assert str(tmp_path) not in str(refusal.value), "clients do not learn the server's paths"


def test_a_file_that_is_gone_when_it_is_read(tmp_path: Path) -> None:
    files = AdapterFiles(tmp_path, SPEC)
    path = install(tmp_path, "tavern", 1.0)
    found = files.find("tavern")
    path.unlink()
    with pytest.raises(BadAdapter, match="'tavern' cannot be read: it is gone") as refusal:
        files.read(found)
    assert str(tmp_path) not in str(refusal.value), "clients do not learn the server's paths"


def test_a_file_of_a_type_that_numpy_may_lack(tmp_path: Path, adapters: StreamAdapters) -> None:
    path = install(tmp_path, "tavern", 1.0)
    tensors = {"encoder": torch.ones(ROWS, WIDTH, dtype=torch.bfloat16)}
    save_torch_file(tensors, path, {"base_sha256": SPEC.base})
    with pytest.raises(BadAdapter, match=r"'tavern' (cannot be read|does not fit)"):
        adapters.assign(0, "tavern", [0])


TOY = {
    "adapters": "2",
    "adapter_parts": "summer",
    "adapter_rows": "1",
    "adapter_widths": "1",
    "adapter_ensembles": "toy_streaming",
    "adapter_base": "abc",
}


def toy_spec(repository: Path, parameters: dict[str, str]) -> StageSpec:
    config = model_config(repository, "summer")
    added = {name: {"string_value": value} for name, value in parameters.items()}
    return StageSpec.from_model_config(config | {"parameters": config["parameters"] | added})


@pytest.fixture
def summer(tmp_path: Path) -> SequenceStage:
    """A stage whose adapters add their value to each sum: clinic 10, court 20."""
    repository = write_toy_repository(tmp_path)
    folder = repository / "summer" / "1"
    (folder / "adapted").mkdir()
    save(adapted_summer_graph(), folder / "adapted" / "model.onnx")
    for name, value in {"clinic": 10.0, "court": 20.0}.items():
        path = repository / f"{name}_toy_streaming" / "1" / "adapter.safetensors"
        path.parent.mkdir(parents=True)
        save_file({"summer": np.full((1, 1), value, np.float32)}, path, {"base_sha256": "abc"})
    spec = toy_spec(repository, TOY)
    assert spec.adapters is not None
    engine = open_engine(folder, spec)
    files = AdapterFiles(repository, spec.adapters)
    return SequenceStage(spec, engine, LoadedAdapters(files, engine, 2))


def sums(outcomes: list[Outcome]) -> list[float]:
    values: list[float] = []
    for outcome in outcomes:
        assert not isinstance(outcome, ChunkError), outcome
        values.append(float(outcome[0].item()))
    return values


def test_a_batch_of_streams_with_adapters_and_without(summer: SequenceStage) -> None:
    start = summer_chunks(
        (1, 1.0), (2, 1.0), (3, 1.0), flags="SSS", adapters=["court", "", "clinic"]
    )
    assert sums(summer.process(start, 0.0)) == [28.0, 8.0, 18.0]
    # Later chunks do not name the adapter again; other streams have other places in the batch.
    assert sums(summer.process(summer_chunks((3, 1.0), (1, 1.0)), 0.0)) == [36.0, 56.0]
    assert sums(summer.process(summer_chunks((2, 1.0)), 0.0)) == [16.0]
    metrics = summer.metrics()
    assert metrics["earshot_adapter_streams", (("adapter", "court"),)] == 1
    assert metrics["earshot_live_streams", ()] == 3
    assert metrics["earshot_loaded_adapters_total", ()] == 2


def test_an_unknown_adapter_fails_its_stream_alone(summer: SequenceStage) -> None:
    chunks = summer_chunks((1, 1.0), (2, 1.0), flags="SS", adapters=["tavern", "clinic"])
    refused, answered = summer.process(chunks, 0.0)
    assert isinstance(refused, UnknownAdapter)
    assert "it has clinic, court" in str(refused)
    assert sums([answered]) == [18.0]
    assert summer.slots.live == 1
    assert summer.metrics()["earshot_refused_streams_total", (("reason", "invalid"),)] == 1


@pytest.mark.parametrize(
    "left_out", ["adapter_rows", "adapter_widths", "adapter_base", "adapter_ensembles"]
)
def test_a_config_that_lacks_a_part(tmp_path: Path, left_out: str) -> None:
    repository = write_toy_repository(tmp_path)
    with pytest.raises(BadStage, match=r"summer: the parameter adapters needs adapter_parts"):
        toy_spec(repository, {name: value for name, value in TOY.items() if name != left_out})


def test_a_graph_without_pools_for_adapters(tmp_path: Path) -> None:
    repository = write_toy_repository(tmp_path)
    folder = repository / "summer" / "1"
    (folder / "adapted").mkdir()
    save(summer_graph(), folder / "adapted" / "model.onnx")
    with pytest.raises(BadStage, match=r"widths \[\], the config needs \[1\]"):
        open_engine(folder, toy_spec(repository, TOY))
