"""A soak fails if the server keeps something."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadtest.soak.document import MIB, Reading, leaks

WARM = Reading(20.0, 500 * MIB, 64 * MIB, 100, 40)
START = replace(WARM, at_s=0.0, rss_bytes=300 * MIB, slots=0)
END = replace(WARM, at_s=110.0, slots=0)


def test_a_server_that_keeps_nothing() -> None:
    assert leaks([START, WARM, END], hold_s=100.0) == []


def test_a_server_that_cannot_be_seen() -> None:
    blind = [Reading(at_s, None, None, None, None) for at_s in (0.0, 20.0, 110.0)]
    assert leaks(blind, hold_s=100.0) == []


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        ({"rss_bytes": 600 * MIB}, "resident memory has grown by 100 MiB since 20 s"),
        ({"shm_bytes": 65 * MIB}, "shared memory has grown by 1.0 MiB since 20 s"),
        ({"file_descriptors": 109}, "109 file descriptors are open at the end, 100 were"),
        ({"slots": 1}, "1 slots are taken at the end, 0 were at the start"),
    ],
)
def test_what_is_kept_is_named(kept: dict[str, int], reason: str) -> None:
    [got] = leaks([START, WARM, replace(END, **kept)], hold_s=100.0)
    assert got.startswith(reason)
