"""Reuse the memory that a training step frees in the next step.

By default glibc returns every large tensor to the kernel, which clears its pages and maps them
again a moment later: a seventh of a training step (measured with two threads, batches of 30 s: 20.7
to 22.0 ms of CPU per second of audio, against 17.5 to 18.5).
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Parameters of mallopt(3)."""


def keep_freed_pages() -> None:
    """Allocate large blocks from one heap that never shrinks; do nothing without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_ARENA_MAX, 1)
