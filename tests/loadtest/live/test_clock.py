"""One timer wakes all greenlets, in the order of their times, and none too early."""

from __future__ import annotations

import random
import time

import gevent

from loadtest.live.clock import Clock


def test_greenlets_wake_in_order_and_never_early() -> None:
    clock, woken = Clock(), list[tuple[float, float]]()
    asleep_s: list[float] = []

    def wait(due_s: float) -> None:
        asleep_s.append(time.monotonic())
        clock.wait_until(due_s)
        woken.append((due_s, time.monotonic()))

    start_s = time.monotonic()
    due = [start_s + number / 1000 for number in range(-5, 60)]
    gevent.joinall([gevent.spawn(wait, due_s) for due_s in random.Random(3).sample(due, len(due))])
    later = [due_s for due_s, _ in woken if due_s > asleep_s[-1]]  # by then all were waiting
    assert len(woken) == len(due)
    assert later == sorted(later)
    assert all(woken_s >= due_s for due_s, woken_s in woken)


def test_a_greenlet_that_is_killed_holds_up_nobody() -> None:
    clock, start_s = Clock(), time.monotonic()
    killed = gevent.spawn(clock.wait_until, start_s + 0.02)
    kept = gevent.spawn(clock.wait_until, start_s + 0.03)
    gevent.sleep(0)
    killed.kill()
    with gevent.Timeout(60):
        kept.join()
        clock.wait_until(time.monotonic() + 0.01)
    assert kept.successful()
