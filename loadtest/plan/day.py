"""Simulate a day of calls with a changing number of replicas: GPUs, refusals, cost.

The arrivals are a Poisson process whose rate follows the hours; call lengths are exponential.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from loadtest.plan.fleet import Fleet
from loadtest.plan.scaling import Scaling
from loadtest.result.invalid import reason

_STEP_S = 5.0
_DAY_S = 86_400.0
_HOUR_S = 3600.0
_MINUTE_S = 60.0


@dataclass(frozen=True)
class Burst:
    """A few minutes in which more calls arrive."""

    at_hour: float
    minutes: float
    factor: float


@dataclass(frozen=True)
class Day:
    """The arrivals of calls over a day, and their length."""

    about: str
    mean_call_s: float
    load_by_hour: list[float]
    """Rate of calls at the full hours, in any unit; linearly interpolated in between."""
    bursts: list[Burst]

    @classmethod
    def from_json(cls, path: Path) -> Day:
        """Read the document at `path`.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file describes no day.
        """
        try:
            day = _DOCUMENT.validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path} describes no day: {reason(error)}") from error
        hours = len(day.load_by_hour)
        if hours != 24 or max(day.load_by_hour) <= 0 or day.mean_call_s <= 0:
            raise ValueError(
                f"expected 24 values of load_by_hour, not all 0, and a positive mean_call_s in "
                f"{path}, got {hours} values and {day.mean_call_s:g} s"
            )
        return day

    def calls_per_s(self, at_s: float, peak_streams: int) -> float:
        """Return the rate of arrivals that gives `peak_streams` at the peak outside of bursts."""
        hours = [*self.load_by_hour, self.load_by_hour[0]]
        shape = float(np.interp(at_s / _HOUR_S, range(25), hours)) / max(hours)
        burst = math.prod(
            burst.factor
            for burst in self.bursts
            if 0 <= at_s - burst.at_hour * _HOUR_S < burst.minutes * _MINUTE_S
        )
        return peak_streams / self.mean_call_s * shape * burst


_DOCUMENT = TypeAdapter(Day)


@dataclass(frozen=True)
class Minute:
    """The service at the end of one minute."""

    live: int
    replicas: int
    """Replicas that occupy a unit, including those that start or drain."""
    serving: int
    busiest: int
    """Live streams on the fullest replica."""
    refused: int
    """Calls refused within the minute."""


@dataclass(frozen=True)
class SimulatedDay:
    """A day, minute by minute."""

    minutes: list[Minute]
    calls: int
    refused: int
    moved: int
    """Streams that were cut off at the end of a drain and continued on another replica."""

    @property
    def replica_hours(self) -> float:
        """Return the sum of the hours of all replicas."""
        return sum(minute.replicas for minute in self.minutes) / 60


def simulate(
    day: Day, peak_streams: int, capacity: int, scaling: Scaling, seed: int = 1
) -> SimulatedDay:
    """Simulate a day that follows a similar one; a replica refuses more than `capacity` streams."""
    chance = np.random.default_rng(seed)
    fleet = _fleet_at_midnight(day, peak_streams, capacity, scaling)
    ending = 1 - math.exp(-_STEP_S / day.mean_call_s)
    minutes: list[Minute] = []
    calls = refused = refused_before = 0
    for step in range(round(_DAY_S / _STEP_S)):
        now_s = step * _STEP_S
        fleet.end_calls(ending, chance)
        arriving = int(chance.poisson(day.calls_per_s(now_s, peak_streams) * _STEP_S))
        calls += arriving
        refused += fleet.take(arriving, chance)
        fleet.scale(now_s)
        if (now_s + _STEP_S) % _MINUTE_S == 0:
            busiest = int(fleet.serving.max())
            new = refused - refused_before
            refused_before = refused
            minutes.append(Minute(fleet.live, fleet.replicas, len(fleet.serving), busiest, new))
    return SimulatedDay(minutes, calls, refused, fleet.moved)


def _fleet_at_midnight(day: Day, peak_streams: int, capacity: int, scaling: Scaling) -> Fleet:
    live = day.calls_per_s(0.0, peak_streams) * day.mean_call_s
    wanted = math.ceil(live / scaling.threshold)
    count = min(max(wanted, scaling.min_replicas), scaling.max_replicas)
    streams = min(capacity, round(live / count))
    return Fleet(scaling, capacity, np.full(count, streams, np.int64))
