"""Run a GPU report in steps that fit a short lease; later calls resume where one has stopped.

A step whose file exists is not repeated, so a call that is killed keeps its results, and a machine
that starts empty each time needs only the results folder. Models of the most important size are
exported in parallel before their steps, the others when their turn comes. Steps that failed or did
not end in an earlier call come last, as they may take long to fail again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from rich.console import Console

from loadtest.gpu.exports import Exports
from loadtest.gpu.plan import ReportOptions
from loadtest.gpu.process import StepFailed, run_module
from loadtest.gpu.schedule import Slot, allotted_s, schedule
from loadtest.gpu.steps import Step, Steps, StepUnfinished, unfinished_path
from loadtest.gpu.summary import write_summary
from loadtest.report.page import render
from loadtest.result.document import CapacityResult
from loadtest.result.machine import usable_cores

ENVIRONMENT_S = 180.0
"""Time for the check of the environment: imports from a cold disk, and a context on the GPU."""
_console = Console(stderr=True)


@dataclass
class Outcome:
    """Names of the steps, by outcome."""

    done: list[str] = field(default_factory=list[str])
    failed: list[str] = field(default_factory=list[str])
    unfinished: list[str] = field(default_factory=list[str])
    left: list[str] = field(default_factory=list[str])

    @property
    def exit_code(self) -> int:
        """Return 0 if all steps are done, 1 if a step failed, 3 if another call would continue."""
        return 1 if self.failed else 3 if self.left or self.unfinished else 0


def run_report(options: ReportOptions, budget_s: float, next_budget_s: float = 0) -> Outcome:
    """Run the steps that have no result yet, and write the pages.

    Args:
        options: What to measure.
        budget_s: Time of this call.
        next_budget_s: Time of a later call, to which steps may be left.
    """
    deadline_s = time.monotonic() + budget_s
    options.results.mkdir(parents=True, exist_ok=True)
    outcome = Outcome()
    run_step(Step("environment", 0, _check_environment), options.results, deadline_s, outcome)
    if not outcome.failed:
        exports = Exports(options)
        for group in in_groups(Steps(options, exports).all(), options.results):
            prepare(group, exports, options.results, deadline_s, outcome)
            run_steps(group, options.results, deadline_s, outcome, next_budget_s)
        write_pages(options.results)
        write_summary(options.results, options.instances, options.own_engines)
    print_outcome(outcome)
    return outcome


def in_groups(todo: Sequence[Step], results: Path) -> list[list[Step]]:
    """Return the steps in groups, in the order in which they run; a group is prepared together."""

    def rank(step: Step) -> int:
        return 2 if _failure_path(step, results).exists() else int(step.later)

    return [list(group) for _, group in groupby(sorted(todo, key=rank), rank)]


def prepare(
    group: Sequence[Step], exports: Exports, results: Path, deadline_s: float, outcome: Outcome
) -> None:
    """Export the models of a group in parallel, together with its steps that measure no times.

    An export is mostly single-threaded. Its failure is reported by the steps that need the model.
    """
    left_s = deadline_s - time.monotonic()
    todo = [step for step in without_result(group, results) if step.least_s <= left_s]
    models = dict.fromkeys(step.model for step in todo if step.model)
    with ThreadPoolExecutor(max(2, usable_cores() // 2)) as pool:
        for model in models:
            pool.submit(exports.repository, model, deadline_s)
        checks = [
            pool.submit(_check, step, results, deadline_s, outcome)
            for step in todo
            if not step.timed
        ]
    for check in checks:
        check.result()


def _check(step: Step, results: Path, deadline_s: float, outcome: Outcome) -> None:
    """Run a step; its time limit starts now, as it may have waited for a thread."""
    run_step(step, results, min(deadline_s, time.monotonic() + step.most_s), outcome)


def run_steps(
    todo: Sequence[Step],
    results: Path,
    deadline_s: float,
    outcome: Outcome | None = None,
    next_budget_s: float = 0,
) -> Outcome:
    """Run the steps that have no result and no outcome yet, until the deadline."""
    outcome = outcome or Outcome()
    for number, step in enumerate(todo):
        if step.name in (*outcome.done, *outcome.failed, *outcome.unfinished):
            continue
        left_s = deadline_s - time.monotonic()
        if _result_path(step, results).exists():
            outcome.done.append(step.name)
        elif left_s < step.least_s or step.needs in outcome.failed:
            outcome.left.append(step.name)
        else:
            following = without_result(todo[number + 1 :], results)
            took_s = allotted_s(step, following, left_s, next_budget_s)
            run_step(step, results, time.monotonic() + took_s, outcome)
    return outcome


def without_result(todo: Sequence[Step], results: Path) -> list[Step]:
    """Return the steps that still have to run."""
    return [step for step in todo if not _result_path(step, results).exists()]


def planned(options: ReportOptions, calls_s: Sequence[float]) -> list[Slot]:
    """Return the schedule of the steps that still have to run."""
    groups = in_groups(Steps(options, Exports(options)).all(), options.results)
    todo = [step for group in groups for step in without_result(group, options.results)]
    return schedule(todo, calls_s)


def run_step(step: Step, results: Path, deadline_s: float, outcome: Outcome) -> None:
    """Run a step; if it fails, write the reason to `<step>.failed.txt`."""
    _console.print(f"{step.name} (for {deadline_s - time.monotonic():.0f} s)", highlight=False)
    path = _result_path(step, results)
    try:
        step.run(path, deadline_s)
    except StepFailed as error:
        names = outcome.unfinished if isinstance(error, StepUnfinished) else outcome.failed
        names.append(step.name)
        _failure_path(step, results).write_text(f"{error}\n")
        _console.print(str(error), style="red", markup=False, highlight=False)
    else:
        outcome.done.append(step.name)
        _failure_path(step, results).unlink(missing_ok=True)
        unfinished_path(path).unlink(missing_ok=True)


def write_pages(results: Path) -> None:
    """Write the page of `loadtest report` beside each capacity and hold."""
    for path in sorted([*results.glob("capacity_*.json"), *results.glob("hold_*.json")]):
        page = render(CapacityResult.from_json(path))
        path.with_suffix(".html").write_text(page, encoding="utf-8")


def print_outcome(outcome: Outcome) -> None:
    """Print how many steps are done, and the names of the others."""
    _console.print(f"{len(outcome.done)} steps done", highlight=False)
    if outcome.failed:
        _console.print(f"failed: {', '.join(outcome.failed)}", style="red", highlight=False)
    if outcome.unfinished:
        _console.print(f"did not end: {', '.join(outcome.unfinished)}", highlight=False)
    if outcome.left:
        _console.print(f"left: {', '.join(outcome.left)}; run again to resume", highlight=False)


def _check_environment(path: Path, deadline_s: float) -> None:
    deadline_s = min(deadline_s, time.monotonic() + ENVIRONMENT_S)
    run_module("loadtest.gpu.environment", str(path), deadline_s=deadline_s)


def _result_path(step: Step, results: Path) -> Path:
    return results / f"{step.name}.json"


def _failure_path(step: Step, results: Path) -> Path:
    return results / f"{step.name}.failed.txt"
