"""Steps of a GPU report, the most important first. Each leaves one JSON file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loadtest.gpu.exports import Exports
from loadtest.gpu.machine import describe_machine
from loadtest.gpu.plan import DEMO, TARGETS, Model, ReportOptions
from loadtest.gpu.process import GOODBYE_S, StepFailed, end_of, run_module
from loadtest.result.document import CapacityResult

GROWTH, RESOLUTION = 1.4, 0.1
"""Of the capacity search. Streams far beyond the capacity take long to end, which costs a lease."""
HOLD_SHARE = 0.8
"""Share of the capacity that is held long."""
START_S = 60.0
"""For a server to load a model, the reference to be recorded, and users to be spawned."""
ENGINE_TESTS = "tests/server/test_torch_engine.py"


class StepUnfinished(StepFailed):
    """A search was ended; the levels that it has held are kept."""


@dataclass(frozen=True)
class Step:
    """A part of the report that leaves `<name>.json` among the results."""

    name: str
    estimate_s: float
    """It is not started with less time than this."""
    run: Callable[[Path, float], None]
    """Takes the file to write, and the deadline on the monotonic clock."""
    model: Model | None = None
    """The model to export before it."""
    timed: bool = True
    """It needs the machine for itself; others run beside the exports."""
    later: bool = False
    """It comes after all other steps, and its model is exported then."""


class Steps:
    """Makes the steps of a report."""

    def __init__(self, options: ReportOptions, exports: Exports) -> None:
        self._options = options
        self._exports = exports

    def all(self) -> list[Step]:
        """Return all steps, the most important first."""
        options = self._options
        todo = [Step("machine", 1, lambda path, _: _write(path, describe_machine()))]
        todo.append(Step("engine_tests", 60, _run_engine_tests, timed=False))
        if DEMO in options.sizes:
            todo.append(self._tokens(options.precision))
        first, *others = options.sizes
        for chunk_ms in options.chunks_ms:
            todo += self._measurements(Model(first, chunk_ms, options.precision))
        todo.append(self._long_hold(options.first))
        for chunk_ms in options.chunks_ms:
            for size in others:
                todo += self._measurements(Model(size, chunk_ms, options.precision), later=True)
        if DEMO in options.sizes and options.precision != "fp32":
            todo.append(self._tokens("fp32", later=True))
        return todo

    def _tokens(self, precision: str, later: bool = False) -> Step:
        model = Model(DEMO, self._options.chunks_ms[0], precision)
        run = partial(self._compare_tokens, model)
        return Step(f"tokens_{DEMO}_{precision}", 60, run, model, timed=False, later=later)

    def _measurements(self, model: Model, later: bool = False) -> list[Step]:
        options = self._options
        engine, capacity = partial(self._time_engine, model), partial(self._find_capacity, model)
        search_s = START_S + 2 * options.short_hold_s + options.hold_s
        return [
            Step(f"engine_{model.name}", 45, engine, model, later=later),
            Step(f"capacity_{model.name}", search_s, capacity, model, later=later),
        ]

    def _long_hold(self, model: Model) -> Step:
        estimate_s = START_S + self._options.long_hold_s
        return Step(f"hold_{model.name}", estimate_s, partial(self._hold_long, model), model)

    def _compare_tokens(self, model: Model, path: Path, deadline_s: float) -> None:
        """Compare the service on the GPU with one on the CPU that has passed the export's gate."""
        reference = self._exports.reference(deadline_s)
        repository = self._exports.repository(model, deadline_s)
        run_module(
            *("loadtest", "gpu-tokens", "--reference", str(reference)),
            *("--repository", str(repository), "--speech", str(self._options.speech)),
            *("--output", str(path)),
            deadline_s=deadline_s,
        )

    def _time_engine(self, model: Model, path: Path, deadline_s: float) -> None:
        repository = self._exports.repository(model, deadline_s)
        arguments = ["--repository", str(repository), "--output", str(path)]
        run_module("server.engine_time", *arguments, deadline_s=deadline_s)

    def _find_capacity(self, model: Model, path: Path, deadline_s: float) -> None:
        options = self._options
        first = options.first_streams or TARGETS[model.chunk_ms] * 2 // 3
        # The export comes first: it may take its part of the time.
        self._exports.repository(model, deadline_s)
        budget_s = max(1.0, deadline_s - time.monotonic() - GOODBYE_S)
        search = ["capacity", "--first-streams", str(first), "--growth", str(GROWTH)]
        search += ["--resolution", str(RESOLUTION), "--short-hold-s", str(options.short_hold_s)]
        search += ["--hold-s", str(options.hold_s), "--budget-s", f"{budget_s:.0f}"]
        self._load(model, search, path, deadline_s)

    def _hold_long(self, model: Model, path: Path, deadline_s: float) -> None:
        """Hold 80 % of the capacity for long."""
        found = self._options.results / f"capacity_{model.name}.json"
        streams = CapacityResult.from_json(found).streams if found.exists() else 0
        if not streams:
            raise StepFailed(f"{found.name} has no count to hold {HOLD_SHARE:.0%} of")
        hold = ["hold", "--streams", str(int(HOLD_SHARE * streams))]
        hold += ["--hold-s", str(self._options.long_hold_s)]
        self._load(model, hold, path, deadline_s)

    def _load(self, model: Model, command: list[str], path: Path, deadline_s: float) -> None:
        """Run a load test; that streams are not sustained is a result too.

        The document is marked as unfinished until the command has ended.
        """
        repository = self._exports.repository(model, deadline_s)
        unfinished = unfinished_path(path)
        arguments = ["--repository", str(repository), "--output", str(unfinished)]
        arguments += ["--processes", str(self._options.processes)]
        arguments += ["--speech", str(model.load_speech)]
        if model.allowed_change is not None:
            arguments += ["--allowed-change", str(model.allowed_change)]
        try:
            arguments = ["loadtest", *command, *arguments]
            output = end_of(run_module(*arguments, deadline_s=deadline_s, accepted=(0, 1, 3)))
        except StepFailed as error:
            output = str(error)
        _keep_result(unfinished, path, output)


def unfinished_path(path: Path) -> Path:
    """Return the file of a search that did not end, for the result at `path`."""
    return path.with_name(f"{path.stem}.unfinished.json")


def _keep_result(unfinished: Path, path: Path, output: str) -> None:
    """Move a document that is finished to `path`.

    Raises:
        StepFailed: There is no document, or no level in it.
        StepUnfinished: The document is of a search that did not end; it stays where it is.
    """
    if not unfinished.exists():
        raise StepFailed(f"the load test left no result: {output}")
    result = CapacityResult.from_json(unfinished)
    if not result.levels:
        unfinished.unlink()
        raise StepFailed(f"no level was held: {output}")
    if result.unfinished:
        raise StepUnfinished(f"{result.limit}, {len(result.levels)} levels are kept: {output}")
    unfinished.replace(path)


def _run_engine_tests(path: Path, deadline_s: float) -> None:
    """Run the engine's own tests; on a GPU they hold recorded graphs against the stages."""
    arguments = ["-q", "-p", "no:cacheprovider", ENGINE_TESTS]
    output = run_module("pytest", *arguments, deadline_s=deadline_s)
    _write(path, {"passed": output.splitlines()[-1]})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
