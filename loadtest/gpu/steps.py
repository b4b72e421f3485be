"""Define the steps of a GPU report, the most important first. Each writes one JSON file."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loadtest.capacity.commands import SPAWN_S
from loadtest.gpu.exports import Exports
from loadtest.gpu.machine import describe_machine
from loadtest.gpu.plan import DEMO, FIRST_SHARE, TARGETS, WHOLE, Model, ReportOptions
from loadtest.gpu.process import GOODBYE_S, StepFailed, end_of, run_module
from loadtest.options import LoadOptions
from loadtest.result.document import CapacityResult

GROWTH, RESOLUTION = 1.4, 0.1
"""Parameters of the capacity search. Streams far beyond the capacity take long to end, which costs
time of the lease."""
HOLD_SHARE = 0.8
"""Share of the capacity at which streams are held for longer."""
LONG_HOLD_LEAST_S = 60.0
"""A hold at a share of the capacity is not worth starting if it is shorter."""
LEVELS, FINALS = 6, 2
"""Largest numbers of levels and final holds of a search: a level that passes for some seconds may
fail in the final hold, as in both searches on a GPU so far."""
CHECK_LEAST_S, CHECK_MOST_S, CPU_CHECK_MOST_S = 60.0, 120.0, 300.0
"""Time limits of a check that runs during the exports: if it hangs, measurements wait no longer."""
SERVER_S = 30.0
"""Time for a server to load a model: five processes of 0.6B took 20 s on an H200, 30 s two at a
time."""
REFERENCE_S = 18.0
"""Time that an H200 took for the reference in chunks of 160 ms: ten scripts, one after the
other."""
LEVEL_S = SPAWN_S + LoadOptions.warm_up_s
"""Time around the hold of a level, in which users are spawned and warm up."""
ENGINE_TESTS = tuple(
    f"tests/server/test_{name}.py" for name in ("torch_engine", "torch_utterances", "fused_ops")
)
ON_GPU, ON_CPU = "cuda or on_a_gpu", "recorded"
"""Tests to select by name: those for a GPU, or those of recordings that work like CUDA graphs."""
FILES_S = 20.0
"""Time for which whole files are sent."""
FILES_AT_ONCE, CPU_FILES_AT_ONCE = 1024, 16
"""Files in flight; on a GPU these are two full batches for each of the two processes."""
CPU_RUN_S = 64.0
"""Audio of the largest run in a rehearsal without a GPU."""


class StepUnfinished(StepFailed):
    """A measurement was ended early; its levels or shapes so far are kept."""


@dataclass(frozen=True)
class Step:
    """A part of the report that writes `<name>.json` into the results."""

    name: str
    least_s: float
    """Minimum time, without which the step is not started."""
    run: Callable[[Path, float], None]
    """Called with the file to write and the monotonic time of the deadline."""
    model: Model | None = None
    """The model to export before the step."""
    timed: bool = True
    """True if the step needs the machine for itself; others run during the exports."""
    later: bool = False
    """True if the step comes after all others, and its model is exported only then."""
    most_s: float = math.inf
    """Maximum time."""
    wants_s: float = 0.0
    """Time that is reserved for the step before any is kept for later steps."""
    filler: bool = False
    """True if the step only uses leftover time: earlier steps keep none for it."""
    needs: str = ""
    """Name of a step that must not have failed in the same call."""


class Steps:
    """Builds the steps of a report."""

    def __init__(self, options: ReportOptions, exports: Exports) -> None:
        self._options = options
        self._exports = exports

    def all(self) -> list[Step]:
        """Return all steps, the most important first."""
        options = self._options
        first, *others = options.sizes
        models = [options.model(first, chunk_ms) for chunk_ms in options.chunks_ms]
        todo = [
            Step("machine", 1, lambda path, _: _write(path, describe_machine()), most_s=5),
            self._engine_tests(),
        ]
        if DEMO in options.sizes:
            todo += self._tokens(options.precision)
        todo += [self._service(model) for model in models]
        for chunk_ms in (*options.live_chunks_ms[:1], WHOLE):
            timed = [model for model in models if model.chunk_ms == chunk_ms]
            # Skip models with an engine per process: such an engine is as fast as a shared one.
            todo += [self._engine(model) for model in timed if not model.own_engines]
        if options.live_chunks_ms:
            todo.append(self._long_hold(options.model(first, options.live_chunks_ms[0])))
        for chunk_ms in options.live_chunks_ms[1:]:
            if not options.own_engines:
                todo.append(self._engine(options.model(first, chunk_ms), later=True))
        for chunk_ms in options.chunks_ms:
            for model in [options.model(size, chunk_ms) for size in others]:
                todo.append(self._service(model, later=True))
                todo += [] if model.own_engines else [self._engine(model, later=True)]
        if DEMO in options.sizes and options.precision != "fp32":
            todo += self._tokens("fp32", later=True)
        return todo

    def _engine_tests(self) -> Step:
        run = partial(_run_engine_tests, ON_GPU if self._options.gpu_bytes else ON_CPU)
        return Step("engine_tests", CHECK_LEAST_S, run, timed=False, most_s=self._check_most_s)

    @property
    def _check_most_s(self) -> float:
        return CHECK_MOST_S if self._options.gpu_bytes else CPU_CHECK_MOST_S

    def _tokens(self, precision: str, later: bool = False) -> list[Step]:
        """Compare the demo model's tokens, for live streams and for whole files if measured."""
        chunks_ms = [
            *self._options.live_chunks_ms[:1],
            *(WHOLE,) * (WHOLE in self._options.chunks_ms),
        ]
        models = [self._options.model(DEMO, chunk_ms, precision) for chunk_ms in chunks_ms]
        return [
            Step(
                f"tokens_{model.name}",
                CHECK_LEAST_S,
                partial(self._compare_tokens, model),
                model,
                timed=False,
                later=later,
                most_s=self._check_most_s,
            )
            for model in models
        ]

    def _engine(self, model: Model, later: bool = False) -> Step:
        """Time the engine without the server."""
        whole = model.chunk_ms == WHOLE
        run = self._time_files if whole else self._time_engine
        least_s, most_s = (80.0, 150.0) if whole else (45.0, 90.0)
        name = f"engine_{model.name}"
        return Step(
            name, least_s, partial(run, model), model, later=later, most_s=most_s, filler=True
        )

    def _service(self, model: Model, later: bool = False) -> Step:
        """Measure a model through gRPC and Triton: a capacity, or the rate of whole files."""
        options = self._options
        if model.chunk_ms == WHOLE:
            run = partial(self._send_files, model)
            return Step(model.name, 90, run, model, later=later, most_s=150)
        first = options.model(options.sizes[0], options.live_chunks_ms[0])
        level_s = LEVEL_S + options.short_hold_s
        final_s = LEVEL_S + options.hold_of(model.chunk_ms)
        least_s = start_s(model) + level_s + final_s
        return Step(
            f"capacity_{model.name}",
            least_s,
            partial(self._find_capacity, model),
            model,
            later=later,
            wants_s=least_s + (level_s + final_s if model == first else 0.0),
            most_s=start_s(model) + LEVELS * level_s + FINALS * final_s,
            needs="" if model == first else f"capacity_{first.name}",
        )

    def _long_hold(self, model: Model) -> Step:
        around_s, long_s = start_s(model) + LEVEL_S, self._options.long_hold_s
        return Step(
            f"hold_{model.name}",
            around_s + min(LONG_HOLD_LEAST_S, long_s),
            partial(self._hold_long, model),
            model,
            most_s=around_s + long_s,
            filler=True,
            needs=f"capacity_{model.name}",
        )

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
        """Send whole files, with two full batches for each process of the model in flight."""
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
        first = options.first_streams or int(FIRST_SHARE * TARGETS[model.chunk_ms])
        # Export first, because it may take its part of the time.
        self._exports.repository(model, deadline_s)
        budget_s = max(1.0, deadline_s - time.monotonic() - GOODBYE_S)
        search = ["capacity", "--first-streams", str(first), "--growth", str(GROWTH)]
        search += ["--resolution", str(RESOLUTION), "--short-hold-s", str(options.short_hold_s)]
        search += ["--hold-s", str(options.hold_of(model.chunk_ms))]
        search += ["--budget-s", f"{budget_s:.0f}"]
        self._load(model, search, path, deadline_s)

    def _hold_long(self, model: Model, path: Path, deadline_s: float) -> None:
        """Hold 80 % of the capacity for as long as time allows."""
        found = self._options.results / f"capacity_{model.name}.json"
        streams = CapacityResult.from_json(found).streams if found.exists() else 0
        if not streams:
            raise StepFailed(f"{found.name} has no count to hold {HOLD_SHARE:.0%} of")
        self._exports.repository(model, deadline_s)
        around_s = start_s(model) + LEVEL_S
        room_s = max(LONG_HOLD_LEAST_S, deadline_s - time.monotonic() - around_s)
        hold = ["hold", "--streams", str(int(HOLD_SHARE * streams))]
        hold += ["--hold-s", f"{min(self._options.long_hold_s, room_s):.0f}"]
        self._load(model, hold, path, deadline_s)

    def _load(self, model: Model, command: list[str], path: Path, deadline_s: float) -> None:
        """Run a load test; streams that are not sustained are a result, too.

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
    """Return the time of a load test apart from its levels: for the server and the reference.

    Scripts are always transcribed one after the other, even if time is short: in half precision
    tokens depend on the batch, and the reference is a stream alone.
    """
    return SERVER_S + REFERENCE_S * min(TARGETS) / model.chunk_ms + GOODBYE_S


def unfinished_path(path: Path) -> Path:
    """Return the file of a measurement that did not end, for the result at `path`."""
    return path.with_name(f"{path.stem}.unfinished.json")


def _keep_result(unfinished: Path, path: Path, output: str) -> None:
    """Move a finished document to `path`.

    Raises:
        StepFailed: There is no document, or no level in it.
        StepUnfinished: The search of the document did not end; it stays where it is.
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


def _run_engine_tests(which: str, path: Path, deadline_s: float) -> None:
    """Run the engine's tests on this device, which compare recorded graphs with the stages."""
    arguments = ["-q", "-p", "no:cacheprovider", "-k", which, *ENGINE_TESTS]
    output = run_module("pytest", *arguments, deadline_s=deadline_s)
    _write(path, {"passed": output.splitlines()[-1]})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
