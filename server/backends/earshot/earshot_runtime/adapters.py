"""Give each stream the adapter that it asks for, and keep those in use in the engine's pools.

A pool has a limited number of slots. An adapter is read when a stream or a file needs it, and stays
until another one needs its slot: the least recently used adapter that is not in use is then
replaced. Slot 0 is zero, for streams and files without an adapter.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .adapter_files import AdapterFile, AdapterFiles
from .counts import ADAPTER_STREAMS, Sample
from .errors import AdaptersFull
from .slots import Slots

AdapterSlots = npt.NDArray[np.int64]
NONE = 0
"""The slot of the adapter that changes nothing."""


class AdapterPools(Protocol):
    """The part of an engine that holds adapters."""

    def store_adapter(self, slot: int, rows: list[npt.NDArray[np.float32]]) -> None:
        """Write the rows [rows, width] of an adapter into a slot of each pool."""
        ...


class AdapterTable:
    """Assigns slots 1 to `capacity` to adapters."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._slot_of: OrderedDict[AdapterFile, int] = OrderedDict()
        """The least recently used first."""
        self._names: dict[int, str] = {}
        self._free = list(range(capacity, 0, -1))

    def __len__(self) -> int:
        return len(self._slot_of)

    def find(self, adapter: AdapterFile) -> int | None:
        """Return the slot of an adapter that is in memory, which counts as a use."""
        slot = self._slot_of.get(adapter)
        if slot is not None:
            self._slot_of.move_to_end(adapter)
        return slot

    def take(self, in_use: Collection[int]) -> int:
        """Return a free slot, or that of the least recently used adapter outside `in_use`."""
        if self._free:
            return self._free.pop()
        for adapter, slot in self._slot_of.items():
            if slot not in in_use:
                del self._slot_of[adapter], self._names[slot]
                return slot
        raise AdaptersFull(
            f"this server holds {self.capacity} adapters at once, and open streams have all of "
            "them: start the stream again later or on another server, or export the models with "
            "more --adapters"
        )

    def give_back(self, slot: int) -> None:
        """Free a slot returned by `take`."""
        self._free.append(slot)

    def put(self, adapter: AdapterFile, slot: int) -> None:
        """Note that an adapter is in a slot returned by `take`."""
        self._slot_of[adapter] = slot
        self._names[slot] = adapter.name

    def names(self) -> dict[int, str]:
        """Return the names of the adapters in memory, by slot; any thread may call this."""
        # Atomic, unlike a copy of `_slot_of`, whose keys have a `__hash__` in Python.
        return self._names.copy()


class LoadedAdapters:
    """Reads adapters into the pools of an engine when they are needed."""

    def __init__(self, files: AdapterFiles, pools: AdapterPools, capacity: int) -> None:
        self.capacity = capacity
        self.loaded_total = 0
        self._files = files
        self._pools = pools
        self._table = AdapterTable(capacity)

    def find(self, name: str) -> AdapterFile:
        """Return the current file of an adapter, or raise UnknownAdapter."""
        return self._files.find(name)

    def load(self, file: AdapterFile, in_use: Collection[int]) -> int:
        """Return the slot of an adapter; read its file first if it is not in memory.

        Args:
            in_use: slots whose adapters stay in memory.

        Raises:
            ChunkError: the adapter cannot be read, or there is no room for it.
        """
        found = self._table.find(file)
        if found is not None:
            return found
        rows = self._files.read(file)
        slot = self._table.take(in_use)
        try:
            self._pools.store_adapter(slot, rows)
        except Exception:
            self._table.give_back(slot)
            raise
        self._table.put(file, slot)
        self.loaded_total += 1
        return slot

    def names(self) -> dict[int, str]:
        """Return the names of the adapters in memory, by slot; any thread may call this."""
        return self._table.names()

    def metrics(self) -> dict[Sample, float]:
        """Return the number of adapters in memory, and of those ever read."""
        return {
            ("earshot_adapters", ()): len(self._table),
            ("earshot_loaded_adapters_total", ()): self.loaded_total,
        }


class StreamAdapters:
    """Keeps the adapter of each open stream of a stage."""

    def __init__(self, loaded: LoadedAdapters, streams: int) -> None:
        self._loaded = loaded
        self._of_stream = np.zeros(streams, np.int64)

    def assign(self, slot: int, name: str, open_slots: Collection[int]) -> None:
        """Give the stream that starts in `slot` an adapter; "" stands for none.

        Args:
            open_slots: the slots of all open streams, whose adapters stay in memory.

        Raises:
            ChunkError: the adapter is missing, cannot be read, or there is no room for it.
        """
        self._of_stream[slot] = NONE
        if name:
            in_use = set(self._of_stream[list(open_slots)].tolist())
            self._of_stream[slot] = self._loaded.load(self._loaded.find(name), in_use)

    def of(self, slots: Slots) -> AdapterSlots:
        """Return the slot of each stream's adapter."""
        return self._of_stream[slots]

    def metrics(self, open_slots: Collection[int]) -> dict[Sample, float]:
        """Return the metrics of the adapters, and the number of open streams of each one in use."""
        names = self._loaded.names()
        used = self._of_stream[list(open_slots)].tolist()
        live = Counter(names[slot] for slot in used if slot in names)
        return {
            **self._loaded.metrics(),
            **{(ADAPTER_STREAMS, (("adapter", name),)): count for name, count in live.items()},
        }
