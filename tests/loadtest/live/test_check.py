"""Every part of the rule can break a level, and only the generator's part can void it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from levels import ALIKE, CHUNK_MS, HOLD_S, judged, samples

from loadtest.report_line import describe, exit_code, verdict_of
from loadtest.samples import Samples


def reason(taken: Samples, streams: int = 8) -> str:
    level = judged(taken, streams)
    assert level.valid
    assert not level.passes
    assert verdict_of(level) == "fail"
    [only] = level.reasons
    return only


def test_a_level_that_keeps_the_rule_passes() -> None:
    level = judged(samples(latency_ms=50))
    assert (level.passes, level.valid, level.reasons) == (True, True, [])
    assert level.chunk_latency.p50_ms == level.chunk_latency.p99_ms == 50
    assert level.keep_up_share_min == 1
    assert level.generator_cpu_cores == pytest.approx(0.1)
    assert level.final_latency is not None
    assert exit_code(verdict_of(level)) == 0


def test_text_later_than_a_chunk_fails() -> None:
    taken = samples()
    taken.latency_ms[-len(taken.latency_ms) // 50 :] = CHUNK_MS + 1  # 2 % of all
    assert "p99 chunk latency 321 ms, allowed 320 ms" in reason(taken)


def test_a_failed_stream_fails_the_level() -> None:
    taken = samples(failures=Counter({"ServerBusy": 2}), messages={"ServerBusy": "all taken"})
    assert reason(taken) == "2 streams failed: ServerBusy (all taken)"


def test_a_stream_that_was_never_answered_fails_the_level() -> None:
    assert reason(samples(streams=7)) == "only 7 of 8 streams were answered"


def test_one_stream_that_falls_behind_fails_the_level() -> None:
    taken = samples(streams=200)
    last = taken.speaker == 199
    # Answered in time until near the end; the percentile over 200 streams does not see it.
    taken.latency_ms[last & (taken.due_s > HOLD_S - 2)] = 3000
    assert "kept up" in reason(taken, streams=200)


def test_what_is_under_way_at_the_end_is_not_behind() -> None:
    assert judged(samples(latency_ms=CHUNK_MS - 1)).keep_up_share_min == 1


def test_another_text_than_that_of_a_quiet_stream_fails() -> None:
    level = judged(samples(), texts=replace(ALIKE, different=1, example="'a' for 'b'"))
    assert not level.passes
    assert "1 of 8 transcripts" in level.reasons[0]


def test_nothing_to_compare_does_not_pass() -> None:
    level = judged(samples(), texts=replace(ALIKE, compared=0))
    assert not level.passes


def test_no_answer_at_all_does_not_pass() -> None:
    nothing = np.zeros(0)
    taken = replace(
        samples(),
        speaker=nothing,
        due_s=nothing,
        latency_ms=nothing,
        lateness_ms=nothing,
        final_ms=nothing,
    )
    level = judged(taken)
    assert not level.passes
    assert level.chunk_latency.count == 0
    assert level.final_latency is None


@pytest.mark.parametrize("which", ["lateness_ms", "tick_lateness_ms"])
def test_late_sends_or_ticks_make_the_level_invalid(which: str) -> None:
    late = getattr(samples(), which).copy()
    late[: len(late) // 100] = 11.0
    assert judged(samples(**{which: late})).valid
    late[: len(late) // 50] = 11.0
    level = judged(samples(**{which: late}))
    assert not level.valid
    assert exit_code(verdict_of(level)) == 3
    assert "INVALID" in describe(level)


def test_a_chunk_that_waited_for_the_server_is_not_the_generators_fault() -> None:
    taken = samples()
    taken.lateness_ms[:] = np.nan
    taken.lateness_ms[:100] = 0
    assert judged(taken).lateness.count == 100


def test_a_process_that_had_nothing_to_spare_makes_the_level_invalid() -> None:
    assert judged(samples(cpu_s=[5.0, 5.0])).valid
    level = judged(samples(cpu_s=[1.0, 9.5]))
    assert not level.valid
    assert "0.95 of its core" in level.reasons[0]


def test_a_process_that_did_not_report_makes_the_level_invalid() -> None:
    assert not judged(samples(missing=["worker"])).valid


def test_the_timeline_has_every_second() -> None:
    timeline = judged(samples()).timeline
    assert timeline.second_s == [float(second) for second in range(10)]
    assert set(timeline.streams) == {8}
    assert set(timeline.p99_ms) == {50.0}
