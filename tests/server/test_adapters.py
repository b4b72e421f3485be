"""The adapters of a stage: found by name, read when needed, kept while a stream has them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from server.backends.earshot.earshot_runtime.adapter_files import AdapterFiles
from server.backends.earshot.earshot_runtime.adapters import StreamAdapters
from server.backends.earshot.earshot_runtime.errors import AdaptersFull, BadAdapter, UnknownAdapter
from server.backends.earshot.earshot_runtime.spec import AdapterSpec

ROWS, WIDTH, CAPACITY, STREAMS = 3, 4, 2, 8
SPEC = AdapterSpec(CAPACITY, ("encoder",), (ROWS,), "asr_streaming", "abc")


class Pools:
    """Notes what is written into each slot."""

    def __init__(self) -> None:
        self.slots: dict[int, float] = {}

    def store_adapter(self, slot: int, rows: list[npt.NDArray[np.float32]]) -> None:
        [values] = rows
        self.slots[slot] = float(values[0, 0])


def install(repository: Path, name: str, value: float, base: str = "abc", rows: int = ROWS) -> Path:
    path = repository / f"{name}_asr_streaming" / "1" / "adapter.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    values = np.full((rows, WIDTH), value, np.float32)
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
    return StreamAdapters(AdapterFiles(tmp_path, SPEC), pools, CAPACITY, STREAMS)


def values_of(adapters: StreamAdapters, pools: Pools, slots: list[int]) -> list[float]:
    return [pools.slots.get(int(slot), 0.0) for slot in adapters.of(np.array(slots))]


def test_each_stream_gets_its_own(adapters: StreamAdapters, pools: Pools) -> None:
    for slot, name in enumerate(("clinic", "", "court", "clinic")):
        adapters.assign(slot, name, [0, 1, 2, 3])
    assert values_of(adapters, pools, [0, 1, 2, 3]) == [1.0, 0.0, 2.0, 1.0]
    assert adapters.loaded_total == 2
    assert adapters.live([0, 1, 2, 3]) == {"clinic": 2, "court": 1}


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
    assert adapters.loaded_total == 3, "clinic was used after court, and stayed"
    adapters.assign(5, "court", [4, 5])
    assert values_of(adapters, pools, [4, 5]) == [1.0, 2.0]
    assert adapters.loaded_total == 4
    assert adapters.in_memory == CAPACITY


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
    with pytest.raises(UnknownAdapter, match="shop16, 13 more:"):
        adapters.assign(0, "tavern", [0])


def test_no_adapter_is_there(tmp_path: Path, pools: Pools) -> None:
    adapters = StreamAdapters(AdapterFiles(tmp_path, SPEC), pools, CAPACITY, STREAMS)
    with pytest.raises(UnknownAdapter, match="it has none"):
        adapters.assign(0, "clinic", [0])


@pytest.mark.parametrize(
    ("base", "rows", "value", "message"),
    [
        ("abd", ROWS, 1.0, "installed beside other weights"),
        ("abc", ROWS + 1, 1.0, "expected 3 rows of finite float32"),
        ("abc", ROWS, np.nan, "expected 3 rows of finite float32"),
    ],
)
def test_one_that_does_not_fit(
    tmp_path: Path, adapters: StreamAdapters, base: str, rows: int, value: float, message: str
) -> None:
    install(tmp_path, "tavern", value, base, rows)
    with pytest.raises(BadAdapter, match=message):
        adapters.assign(0, "tavern", [0])
    assert adapters.in_memory == 0


def test_a_damaged_file(tmp_path: Path, adapters: StreamAdapters) -> None:
    install(tmp_path, "tavern", 1.0).write_bytes(b"no tensors")
    with pytest.raises(BadAdapter, match="'tavern' cannot be read") as refusal:
        adapters.assign(0, "tavern", [0])
    assert str(tmp_path) not in str(refusal.value), "clients do not learn the server's paths"
