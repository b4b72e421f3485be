"""Assign the slots of the state pool to streams, and expire idle streams.

There are no tensors here, so the rules (open, reset, free, expire) can be compared with a simple
model in a property test.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .errors import ServerFull, UnknownStream

# Triton drops an idle sequence after its own limit without telling the backend. Expiring it earlier
# would refuse chunks that Triton still accepts.
EXPIRY_MARGIN_S = 1.0

Slots = npt.NDArray[np.intp]


class SlotTable:
    """Assigns `capacity` slots to correlation ids.

    Freed slots are reused last-in, first-out, so that the pool touches only the memory of the
    largest number of streams that were ever live at once.
    """

    def __init__(self, capacity: int, max_idle_s: float) -> None:
        self.capacity = capacity
        self.expired_total = 0
        self._max_idle_s = max_idle_s
        self._slot_of: dict[int, int] = {}
        self._free = list(range(capacity - 1, -1, -1))
        self._last_seen_s = np.zeros(capacity)

    @property
    def live(self) -> int:
        """Return the number of open streams."""
        return len(self._slot_of)

    @property
    def spare(self) -> int:
        """Return the slot after those of the streams, whose state is never needed."""
        return self.capacity

    @property
    def taken(self) -> list[int]:
        """Return the slots of all open streams; any thread may call this."""
        return list(self._slot_of.values())

    def __contains__(self, stream: int) -> bool:
        return stream in self._slot_of

    def open(self, stream: int, now_s: float) -> int:
        """Return a slot for a starting stream: its old one if the id is known, else a free one."""
        slot = self._slot_of.get(stream)
        if slot is None:
            slot = self._slot_of[stream] = self._take_free(now_s)
        self._last_seen_s[slot] = now_s
        return slot

    def find(self, stream: int, now_s: float) -> int:
        """Return the slot of an open stream."""
        slot = self._slot_of.get(stream)
        if slot is None:
            raise UnknownStream(
                f"stream {stream} is not open: it was idle for longer than {self._max_idle_s:g} s, "
                "or the server restarted, or its START chunk was missing or refused; "
                "start a new stream"
            )
        # Set now, not after the run, because a START later in the batch may expire idle streams.
        self._last_seen_s[slot] = now_s
        return slot

    def _take_free(self, now_s: float) -> int:
        if not self._free:
            self.expire(now_s)
        if not self._free:
            raise ServerFull(
                f"this server holds {self.capacity} live streams per instance and all are taken; "
                "start the stream again later or on another server, or raise max_streams"
            )
        return self._free.pop()

    def close(self, stream: int) -> None:
        """Free the stream's slot, if the stream is open."""
        slot = self._slot_of.pop(stream, None)
        if slot is not None:
            self._free.append(slot)

    def expire(self, now_s: float) -> None:
        """Free the slots of all streams that have been idle for too long."""
        deadline_s = now_s - self._max_idle_s - EXPIRY_MARGIN_S
        idle = [s for s, slot in self._slot_of.items() if self._last_seen_s[slot] < deadline_s]
        for stream in idle:
            self.close(stream)
        self.expired_total += len(idle)
