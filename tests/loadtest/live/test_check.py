"""Each part of the rule can fail a level; only the load generator's part makes it invalid."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from loadtest.live.samples import LevelSamples
from loadtest.result.document import exit_code
from loadtest.result.level_line import describe
from tests.support.sample_levels import CHUNK_MS, HOLD_S, SAME, checked, samples


def reason(recorded: LevelSamples, streams: int = 8) -> str:
    level = checked(recorded, streams)
    assert level.valid
    assert not level.passes
    assert level.verdict == "fail"
    [only] = level.reasons
    return only


def test_a_level_that_keeps_the_rule_passes() -> None:
    level = checked(samples(latency_ms=50))
    assert (level.passes, level.valid, level.reasons) == (True, True, [])
    assert level.chunk_latency.p50_ms == level.chunk_latency.p99_ms == 50
    assert level.keep_up_share_min == 1
    assert level.generator_cpu_cores == pytest.approx(0.1)
    assert level.final_latency is not None
    assert exit_code(level.verdict) == 0


def test_text_later_than_a_chunk_fails() -> None:
    recorded = samples()
    recorded.latency_ms[-len(recorded.latency_ms) // 50 :] = CHUNK_MS + 1  # 2 % of all
    assert "p99 chunk latency 321 ms, allowed 320 ms" in reason(recorded)


def test_a_failed_stream_fails_the_level() -> None:
    recorded = samples(failures=Counter({"ServerBusy": 2}), messages={"ServerBusy": "all recorded"})
    assert reason(recorded) == "2 streams failed: ServerBusy (all recorded)"


def test_refusals_by_the_limit_of_the_server_are_said_to_be_that() -> None:
    message = "localhost:8001 has no free slot for the stream: this server is saturated: with ..."
    recorded = samples(failures=Counter({"ServerBusy": 2}), messages={"ServerBusy": message})
    assert "measure a server that was started with --chunk-share 0" in reason(recorded)


def test_a_stream_that_was_never_answered_fails_the_level() -> None:
    assert reason(samples(streams=7)) == "only 7 of 8 streams were answered"


def test_one_stream_that_falls_behind_fails_the_level() -> None:
    recorded = samples(streams=200)
    last = recorded.user == 199
    # Answered in time until near the end; the percentile over 200 streams does not see it.
    recorded.latency_ms[last & (recorded.due_s > HOLD_S - 2)] = 3000
    assert "kept up" in reason(recorded, streams=200)


def test_chunks_in_flight_at_the_end_are_not_behind() -> None:
    assert checked(samples(latency_ms=CHUNK_MS - 1)).keep_up_share_min == 1


def test_a_text_that_differs_from_the_reference_fails() -> None:
    level = checked(samples(), transcripts=replace(SAME, different=1, example="'a' for 'b'"))
    assert not level.passes
    assert "1 of 8 transcripts" in level.reasons[0]


def test_a_level_without_finished_streams_does_not_pass() -> None:
    level = checked(samples(), transcripts=replace(SAME, compared=0))
    assert not level.passes


def test_no_answer_at_all_does_not_pass() -> None:
    nothing = np.zeros(0)
    recorded = replace(
        samples(),
        user=nothing,
        due_s=nothing,
        latency_ms=nothing,
        lateness_ms=nothing,
        final_ms=nothing,
    )
    level = checked(recorded)
    assert not level.passes
    assert level.chunk_latency.count == 0
    assert level.final_latency is None


@pytest.mark.parametrize("which", ["lateness_ms", "tick_lateness_ms"])
def test_late_sends_or_ticks_make_the_level_invalid(which: str) -> None:
    late = getattr(samples(), which).copy()
    late[: len(late) // 100] = 11.0
    assert checked(samples(**{which: late})).valid
    late[: len(late) // 50] = 11.0
    level = checked(samples(**{which: late}))
    assert not level.valid
    assert exit_code(level.verdict) == 3
    assert "INVALID" in describe(level)


def test_a_chunk_that_waited_for_the_server_is_not_late() -> None:
    recorded = samples()
    recorded.lateness_ms[:] = np.nan
    recorded.lateness_ms[:100] = 0
    assert checked(recorded).lateness.count == 100


def test_a_busy_worker_makes_the_level_invalid() -> None:
    assert checked(samples(cpu_s=[5.0, 5.0])).valid
    level = checked(samples(cpu_s=[1.0, 9.5]))
    assert not level.valid
    assert "0.95 of its core" in level.reasons[0]


def test_a_worker_that_did_not_report_makes_the_level_invalid() -> None:
    assert not checked(samples(missing=["worker"])).valid


def test_the_timeline_has_every_second() -> None:
    timeline = checked(samples()).timeline
    assert timeline.second_s == [float(second) for second in range(10)]
    assert set(timeline.streams) == {8}
    assert set(timeline.p99_ms) == {50.0}
