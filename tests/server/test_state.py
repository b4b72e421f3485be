"""The pool: what it costs, and that it writes what it should and nothing else."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np

from server.backends.earshot.earshot_runtime.state import StatePool, StateSpec

MEGABYTE = 2**20
FLOAT32 = np.dtype(np.float32)


def test_memory_is_backed_by_use() -> None:
    spec = StateSpec(suffix="", rows=16, width=MEGABYTE // 64, update_rows=1, dtype=FLOAT32)
    before = _resident_bytes()
    pool = StatePool(spec, slots=4096, max_batch=4)  # 4 GiB
    pool.clear(np.array([7, 4000]))
    assert _resident_bytes() - before < 20 * MEGABYTE


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_no_copy_of_the_pool_is_made() -> None:
    spec = StateSpec(suffix="", rows=4, width=MEGABYTE // 16, update_rows=1, dtype=FLOAT32)
    pool = StatePool(spec, slots=64, max_batch=8)
    slots = np.arange(8)
    tracemalloc.start()
    pool.clear(slots[slots < 0])
    pool.store(slots)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEGABYTE
