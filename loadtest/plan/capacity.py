"""Plan GPUs, or machines, for a number of streams.

A unit is the hardware of the result: one GPU, or the whole machine if there was none. The
arithmetic is simple; it is important that the plan lists its assumptions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from loadtest.overload.document import OverloadResult
from loadtest.result.document import CapacityResult, Conditions
from loadtest.result.files import of_kind

LONG_HOLD_S = 60.0
"""Least hold of a usable result: on an H200, levels have passed for a few seconds but failed over
40 s (docs/gpu.md)."""


class NoPlan(Exception):
    """No plan is possible, for example because the result has no capacity."""


@dataclass(frozen=True)
class Admission:
    """The streams that a server admits, from a measured overload."""

    chunk_share: float
    streams_per_unit: float


def admission_of(overload: OverloadResult, result: CapacityResult) -> Admission:
    """Return the streams that the server of `result` admits, from an overload of the same server.

    Raises:
        NoPlan: The overload failed, had no limit, or was of another server.
    """
    if not overload.passes:
        raise NoPlan(f"this overload failed ({'; '.join(overload.reasons)}): measure again")
    if overload.chunk_share is None:
        raise NoPlan("this overload was of a server that was there: its --chunk-share is not known")
    measured, limited = _served(result.conditions), _served(overload.conditions)
    if measured != limited:
        raise NoPlan(f"expected an overload of {measured}, got one of {limited}")
    units = max(1, overload.conditions.gpu_count)
    return Admission(overload.chunk_share, overload.live_mean / units)


def _served(conditions: Conditions) -> str:
    hardware = conditions.gpu_model or f"{conditions.cpu_cores} cores of {conditions.cpu_model}"
    return f"{_deployed(conditions)} on {hardware}"


def _deployed(conditions: Conditions) -> str:
    return (
        f"{conditions.checkpoint}, {conditions.runtime} {conditions.precision}, "
        f"{conditions.chunk_ms} ms chunks"
    )


@dataclass(frozen=True)
class Demand:
    """Streams to serve, and reserves to keep."""

    streams: int
    """Streams that are live at the same time, at the peak."""
    headroom: float
    """Share of each unit's capacity that stays free."""
    spare: int
    """Number of units that may fail while the others still serve the peak."""
    price_per_hour: float | None
    """Price of one unit, in any currency."""


@dataclass(frozen=True)
class CapacityPlan:
    """The units for a demand, each with the hardware of the result."""

    unit: str
    """`GPU` or `machine`."""
    streams_per_unit_measured: float
    admission: Admission | None
    """The streams that each unit admits, if measured."""
    headroom: float
    streams_per_unit_planned: int
    units_for_the_streams: int
    spare_units: int
    replicas: int
    """Servers to run, one per unit, including spare units."""
    streams_per_replica_at_peak: float | None
    cost_per_hour: float | None
    cost_per_stream_hour: float | None
    """Cost of one stream for an hour at the peak, including spare units."""
    assumptions: list[str]

    @property
    def streams_per_unit(self) -> float:
        """Return the streams that one unit sustains and admits."""
        return _sustained(self.streams_per_unit_measured, self.admission)


def _sustained(measured: float, admission: Admission | None) -> float:
    return measured if admission is None else min(measured, admission.streams_per_unit)


def newest_result(folder: Path) -> Path:
    """Return the newest capacity result in `folder` that passed and was held for long enough.

    Raises:
        NoPlan: There is none.
    """
    found: list[tuple[str, Path]] = []
    for path in of_kind(folder.glob("*.json"), "capacity"):
        result = CapacityResult.from_json(path)
        if result.verdict == "pass" and _held_s(result) >= LONG_HOLD_S:
            found.append((result.conditions.started_at, path))
    if not found:
        raise NoPlan(f"no capacity result that passed in {folder}: measure one, or name a file")
    return max(found)[1]


def make_plan(
    result: CapacityResult, demand: Demand, admission: Admission | None = None
) -> CapacityPlan:
    """Plan the units for `demand`, each with the capacity of `result`.

    Raises:
        NoPlan: The result is invalid or failed, was not held for long enough, or the headroom
            leaves no stream.
    """
    unit, measured = _measured(result)
    sustained = _sustained(measured, admission)
    if not 0 <= demand.headroom < 1:
        raise NoPlan(f"expected a headroom from 0 to below 1, got {demand.headroom:g}")
    # Streams are whole numbers; the small addend corrects 0.8 * 10 = 7.999...
    planned = math.floor(sustained * (1 - demand.headroom) + 1e-9)
    if planned < 1:
        raise NoPlan(
            f"a headroom of {demand.headroom:.0%} leaves no whole stream of the {sustained:g} that "
            f"one {unit} sustains: choose a smaller one"
        )
    needed = math.ceil(demand.streams / planned)
    # Without a stream nothing can fail.
    spare = demand.spare if needed else 0
    replicas = needed + spare
    price = demand.price_per_hour
    cost = None if price is None else price * replicas
    return CapacityPlan(
        unit=unit,
        streams_per_unit_measured=measured,
        admission=admission,
        headroom=demand.headroom,
        streams_per_unit_planned=planned,
        units_for_the_streams=needed,
        spare_units=spare,
        replicas=replicas,
        streams_per_replica_at_peak=demand.streams / replicas if replicas else None,
        cost_per_hour=cost,
        cost_per_stream_hour=cost / demand.streams if cost is not None and needed else None,
        assumptions=_assumptions(result, demand, admission, unit, spare),
    )


def _measured(result: CapacityResult) -> tuple[str, float]:
    """Return the unit of the result, and the streams that one unit sustains."""
    what = "level" if result.kind == "level" else "capacity run"
    if result.unfinished:
        raise NoPlan(f"{result.limit}: this {what} has no capacity to plan with; measure again")
    if result.verdict == "invalid":
        raise NoPlan(
            f"this {what} is INVALID, the load generator was the limit: it says nothing about the "
            "server; measure again with the load generator on more cores"
        )
    if result.verdict == "fail" or not result.streams:
        raise NoPlan(f"this {what} failed ({result.limit}): there is no capacity to plan with")
    if _held_s(result) < LONG_HOLD_S:
        raise NoPlan(
            f"expected {result.streams:,} streams held for {LONG_HOLD_S:.0f} s, got "
            f"{_held_s(result):.0f} s: too short to plan with; hold them for longer (--hold-s)"
        )
    if result.streams_per_gpu is not None:
        return "GPU", result.streams_per_gpu
    return "machine", float(result.streams)


def _held_s(result: CapacityResult) -> float:
    """Return the longest hold with the number of streams of the result."""
    enough = (level for level in result.levels if level.passes and level.streams >= result.streams)
    return max((level.hold_s for level in enough), default=0.0)


def _assumptions(
    result: CapacityResult, demand: Demand, admission: Admission | None, unit: str, spare: int
) -> list[str]:
    conditions = result.conditions
    assumed = [
        f"{demand.streams:,} is the peak of streams live at the same time, all of them with audio "
        "at every moment; nothing is added for a higher peak",
        f"{demand.headroom:.0%} of what each {unit} sustained stays free, for peaks and imbalance",
        f"{spare} spare: this many {unit}s may fail at the peak",
        f"n {unit}s sustain n times what one sustains: one server on each, streams spread evenly "
        "over them, network and load balancer no limit",
        f"what is deployed is what was measured: {_deployed(conditions)}",
        f"each {unit} is {_unit_in_words(conditions)}",
        _admitted_in_words(admission, unit),
    ]
    if demand.price_per_hour is not None:
        assumed.append(
            f"{demand.price_per_hour:g} buys one {unit} with its host for one hour, in the "
            "currency of your choice; all of them run all the time, and a stream-hour is counted "
            "at the peak: fewer streams cost more each"
        )
    return assumed + _weaknesses(result)


def _admitted_in_words(admission: Admission | None, unit: str) -> str:
    if admission is None:
        return (
            f"each {unit} admits as many streams as it sustains: with server.chunkShare it may "
            "refuse before (a result of `loadtest overload` as --admission counts that)"
        )
    return (
        f"each {unit} refuses streams above {admission.streams_per_unit:.0f}, as many as it served "
        f"in an overload with --chunk-share {admission.chunk_share:g}"
    )


def _unit_in_words(conditions: Conditions) -> str:
    if conditions.server_location == "remote":
        return "like the measured one, which was remote: its hardware is not in the result"
    host = f"{conditions.cpu_cores} cores of {conditions.cpu_model}"
    if conditions.gpu_model is None:
        return f"a machine with {host}"
    gpus = f"{conditions.gpu_count} GPU{'' if conditions.gpu_count == 1 else 's'}"
    return f"one {conditions.gpu_model}, in a host like the measured one ({host} for {gpus})"


def _weaknesses(result: CapacityResult) -> list[str]:
    """Return the reasons why the plan may have more or fewer units than needed."""
    weak: list[str] = []
    if result.conditions.server_location == "same machine":
        weak.append(
            "the load generator ran on the server's own machine and took some of its cores: "
            "without it the server may sustain more"
        )
    if result.kind == "level":
        weak.append("one level that passed, not a search: there may be room above it")
    return weak
