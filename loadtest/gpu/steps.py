"""Steps of a GPU report, the most important first. Each leaves one JSON file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loadtest.capacity.commands import SPAWN_S
from loadtest.gpu.exports import Exports
from loadtest.gpu.machine import describe_machine
from loadtest.gpu.plan import DEMO, FILES, TARGETS, WHOLE, Model, ReportOptions
from loadtest.gpu.process import GOODBYE_S, StepFailed, end_of, run_module
from loadtest.options import LoadOptions
from loadtest.result.document import CapacityResult

GROWTH, RESOLUTION = 1.4, 0.1
"""Of the capacity search. Streams far beyond the capacity take long to end, which costs a lease."""
HOLD_SHARE = 0.8
"""Share of the capacity that is held long."""
SERVER_S = 30.0
"""For a server to load a model: five processes of 0.6B took 20 s on an H200, 30 s two at a time."""
REFERENCE_S = 18.0
"""For the reference in chunks of 160 ms, ten scripts one after the other; an H200 took so long."""
LEVEL_S = SPAWN_S + LoadOptions.warm_up_s
"""Around the hold of a level: users are spawned and warm up."""
ENGINE_TESTS = ("tests/server/test_torch_engine.py", "tests/server/test_torch_utterances.py")
FILES_S = 20.0
"""For which whole files are sent."""
FILES_AT_ONCE, CPU_FILES_AT_ONCE = 1024, 16
"""On a GPU: two full batches of each of the two processes."""
CPU_RUN_S = 64.0
"""Audio of the largest run that a rehearsal without a GPU times."""


class StepUnfinished(StepFailed):
    """A measurement was ended; the levels that it has held, or the shapes, are kept."""


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
        todo.append(Step("engine_tests", 120, _run_engine_tests, timed=False))
        if DEMO in options.sizes:
            todo += self._tokens(options.precision)
        first, *others = options.sizes
        for chunk_ms in options.chunks_ms:
            todo += self._measurements(Model(first, chunk_ms, options.precision))
        if options.live_chunks_ms:
            todo.append(self._long_hold(Model(first, options.live_chunks_ms[0], options.precision)))
        for chunk_ms in options.chunks_ms:
            for size in others:
                todo += self._measurements(Model(size, chunk_ms, options.precision), later=True)
        if DEMO in options.sizes and options.precision != "fp32":
            todo += self._tokens("fp32", later=True)
        return todo

    def _tokens(self, precision: str, later: bool = False) -> list[Step]:
        """Compare the demo model as live streams, and for whole files, if these are measured."""
        chunks_ms = self._options.chunks_ms
        named = [(chunk_ms, f"tokens_{DEMO}") for chunk_ms in self._options.live_chunks_ms[:1]]
        named += [(WHOLE, f"tokens_{DEMO}_{FILES}")] * (WHOLE in chunks_ms)
        return [
            Step(
                f"{name}_{precision}",
                60,
                partial(self._compare_tokens, model),
                model,
                timed=False,
                later=later,
            )
            for chunk_ms, name in named
            for model in [Model(DEMO, chunk_ms, precision)]
        ]

    def _measurements(self, model: Model, later: bool = False) -> list[Step]:
        options = self._options
        if model.chunk_ms == WHOLE:
            return [
                Step(
                    f"engine_{model.name}", 80, partial(self._time_files, model), model, later=later
                ),
                Step(f"{model.name}", 90, partial(self._send_files, model), model, later=later),
            ]
        engine, capacity = partial(self._time_engine, model), partial(self._find_capacity, model)
        levels_s = 2 * LEVEL_S + options.short_hold_s + options.hold_s
        return [
            Step(f"engine_{model.name}", 45, engine, model, later=later),
            Step(f"capacity_{model.name}", start_s(model) + levels_s, capacity, model, later=later),
        ]

    def _long_hold(self, model: Model) -> Step:
        estimate_s = start_s(model) + LEVEL_S + self._options.long_hold_s
        return Step(f"hold_{model.name}", estimate_s, partial(self._hold_long, model), model)

    def _compare_tokens(self, model: Model, path: Path, deadline_s: float) -> None:
        """Compare the service on the GPU with one on the CPU that has passed the export's gate."""
        reference = self._exports.reference(model, deadline_s)
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

    def _time_files(self, model: Model, path: Path, deadline_s: float) -> None:
        repository = self._exports.repository(model, deadline_s)
        unfinished = unfinished_path(path)
        arguments = ["--repository", str(repository), "--output", str(unfinished)]
        if not self._options.gpu_bytes:
            arguments += ["--max-s", str(CPU_RUN_S), "--runs", "2"]
        try:
            run_module("server.utterance_time", *arguments, deadline_s=deadline_s)
        except StepFailed as error:
            if unfinished.exists():
                raise StepUnfinished(f"the shapes measured so far are kept: {error}") from None
            raise
        unfinished.replace(path)

    def _send_files(self, model: Model, path: Path, deadline_s: float) -> None:
        """Send whole files, as many at once as two full batches of each process of the model."""
        options = self._options
        repository = self._exports.repository(model, deadline_s)
        run_module(
            *("loadtest", "files", "--repository", str(repository), "--output", str(path)),
            *("--files-at-once", str(FILES_AT_ONCE if options.gpu_bytes else CPU_FILES_AT_ONCE)),
            *("--processes", str(options.processes), "--seconds", str(FILES_S)),
            deadline_s=deadline_s,
        )

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
        if model.allowed_change is not None:
            arguments += ["--allowed-change", str(model.allowed_change)]
        try:
            arguments = ["loadtest", *command, *arguments]
            output = end_of(run_module(*arguments, deadline_s=deadline_s, accepted=(0, 1, 3)))
        except StepFailed as error:
            output = str(error)
        _keep_result(unfinished, path, output)


def start_s(model: Model) -> float:
    """Return the time of a load test without its levels: of the server and of the reference.

    The scripts stay one after the other, also where time is short: in half precision tokens depend
    on the batch, and what streams are compared with is one stream alone.
    """
    return SERVER_S + REFERENCE_S * min(TARGETS) / model.chunk_ms + GOODBYE_S


def unfinished_path(path: Path) -> Path:
    """Return the file of a measurement that did not end, for the result at `path`."""
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
    arguments = ["-q", "-p", "no:cacheprovider", *ENGINE_TESTS]
    output = run_module("pytest", *arguments, deadline_s=deadline_s)
    _write(path, {"passed": output.splitlines()[-1]})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
