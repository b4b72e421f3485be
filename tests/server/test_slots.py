"""Slot bookkeeping against a model that is too simple to be wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from server.backends.earshot.earshot_runtime.errors import ServerFull, UnknownStream
from server.backends.earshot.earshot_runtime.slots import EXPIRY_MARGIN_S, SlotTable

CAPACITY = 4
MAX_IDLE_S = 10.0
STREAMS = st.integers(min_value=1, max_value=7)


class SlotTableMachine(RuleBasedStateMachine):
    """Opens, continues, closes and abandons streams in any order while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = SlotTable(CAPACITY, MAX_IDLE_S)
        self.now_s = 0.0
        self.last_seen_s: dict[int, float] = {}
        self.slot_of: dict[int, int] = {}
        self.expired = 0

    @rule(seconds=st.floats(min_value=0.0, max_value=8.0))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(stream=STREAMS)
    def open(self, stream: int) -> None:
        if stream not in self.slot_of and len(self.slot_of) == CAPACITY:
            self._forget_idle()
            if len(self.slot_of) == CAPACITY:
                with pytest.raises(ServerFull, match="4 live streams"):
                    self.table.open(stream, self.now_s)
                return
        slot = self.table.open(stream, self.now_s)
        assert self.slot_of.setdefault(stream, slot) == slot
        self.last_seen_s[stream] = self.now_s

    @rule(stream=STREAMS)
    def go_on(self, stream: int) -> None:
        if stream not in self.slot_of:
            with pytest.raises(UnknownStream, match="idle for longer than 10 s"):
                self.table.find(stream, self.now_s)
            return
        slot = self.table.find(stream, self.now_s)
        assert slot == self.slot_of[stream]
        self.last_seen_s[stream] = self.now_s

    @rule(stream=STREAMS)
    def close(self, stream: int) -> None:
        self.table.close(stream)
        self.slot_of.pop(stream, None)
        self.last_seen_s.pop(stream, None)

    @rule()
    def expire(self) -> None:
        self.table.expire(self.now_s)
        self._forget_idle()

    def _forget_idle(self) -> None:
        deadline_s = self.now_s - MAX_IDLE_S - EXPIRY_MARGIN_S
        for stream in [s for s, seen_s in self.last_seen_s.items() if seen_s < deadline_s]:
            del self.slot_of[stream], self.last_seen_s[stream]
            self.expired += 1

    @invariant()
    def no_slot_is_shared(self) -> None:
        slots = list(self.slot_of.values())
        assert len(set(slots)) == len(slots) == self.table.live
        assert all(0 <= slot < CAPACITY for slot in slots)
        assert self.table.expired_total == self.expired


TestSlotTable = SlotTableMachine.TestCase


@given(st.lists(STREAMS, max_size=30))
def test_memory_touched_is_bounded_by_the_peak(streams: list[int]) -> None:
    table = SlotTable(100, MAX_IDLE_S)
    slots = set[int]()
    for stream in streams:
        slots.add(table.open(stream, now_s=0.0))
        table.close(stream)
    assert slots <= {0}
