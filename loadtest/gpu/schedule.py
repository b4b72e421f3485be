"""Schedule a GPU report: allot the available time to its steps.

Steps run in order. Each has a minimum, without which it is not started, and a maximum, beyond which
it would gain nothing. It gets the time that later steps can spare, so that a slow search does not
take the time of the next one; time that a step does not use goes to later ones. Steps that do not
fit into this call may be left to the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from loadtest.gpu.steps import Step

ENVIRONMENT_S = 15.0
"""Time for the check of the environment on a GPU machine, once it is unpacked."""
PREPARE_S = 75.0
"""Time to export five 0.6B models and four demo models in parallel, with the checks."""


MARGIN_S = 5.0
"""Added to the minimum of a later step, as an earlier one may end slightly late."""


@dataclass(frozen=True)
class Slot:
    """A step in a schedule."""

    step: Step
    call: int
    """Number of the call that runs it; 0 if none does."""
    starts_s: float
    """Latest start, in seconds from the start of the call."""
    allotted_s: float


def allotted_s(step: Step, following: Sequence[Step], left_s: float, next_s: float) -> float:
    """Return the share of a call's remaining time that a step gets.

    Args:
        step: The step that starts.
        following: The steps that come after it.
        left_s: Time that is left in this call.
        next_s: Time of the next call; 0 without one.
    """
    spare_s, kept_s = left_s - max(step.least_s, step.wants_s), 0.0
    for other in following:
        needs_s = other.least_s + MARGIN_S
        if other.filler:
            continue
        if kept_s + needs_s <= spare_s:
            kept_s += needs_s
        elif needs_s <= next_s:
            next_s -= needs_s
    return min(step.most_s, left_s - kept_s)


def schedule(todo: Sequence[Step], calls_s: Sequence[float]) -> list[Slot]:
    """Return when each step starts if all use their allotted time, call by call.

    Args:
        todo: The steps without a result, in their order.
        calls_s: Length of each call. The machine stays the same, so only the first call exports.
    """
    slots: list[Slot] = []
    for call, call_s in enumerate(calls_s, start=1):
        at_s = ENVIRONMENT_S
        if call == 1:
            beside = [step for step in todo if not (step.timed or step.later)]
            slots += [Slot(step, call, at_s, step.most_s) for step in beside]
            todo = [step for step in todo if step not in beside]
            at_s += PREPARE_S
        left: list[Step] = []
        for number, step in enumerate(todo):
            if step.least_s > call_s - at_s:
                left.append(step)
                continue
            group = [other for other in todo[number + 1 :] if other.later == step.later]
            allotted = allotted_s(step, group, call_s - at_s, sum(calls_s[call:]))
            slots.append(Slot(step, call, at_s, allotted))
            at_s += allotted
        todo = left
    return slots + [Slot(step, 0, 0.0, 0.0) for step in todo]


def print_schedule(slots: Sequence[Slot], calls_s: Sequence[float]) -> None:
    """Print a table of the schedule."""
    console = Console()
    calls = " and ".join(f"{call_s:.0f} s" for call_s in calls_s if call_s)
    table = Table("call", "step", "starts, s", "needs, s", "may take, s", title=f"calls of {calls}")
    for column in table.columns[2:]:
        column.justify = "right"
    for slot in slots:
        if slot.call:
            times_s = (slot.starts_s, slot.step.least_s, slot.allotted_s)
            table.add_row(str(slot.call), slot.step.name, *(f"{time_s:.0f}" for time_s in times_s))
    console.print(table)
    console.print(
        "If each step takes all that it may. What one leaves goes to those after it, then to those "
        "that have no time here:",
        ", ".join(slot.step.name for slot in slots if not slot.call) or "none",
        highlight=False,
    )
