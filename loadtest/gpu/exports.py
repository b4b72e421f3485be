"""Export the models of a GPU report, each once, several at the same time."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock

from loadtest.gpu.plan import DEMO, FILES_INSTANCES, WHOLE, Model, ReportOptions, slots
from loadtest.gpu.process import StepFailed, run_module
from loadtest.result.machine import usable_cores

DEMO_CHECKPOINT = "checkpoints/demo"


class Exports:
    """Repositories of models; those exported by an earlier call are reused."""

    def __init__(self, options: ReportOptions) -> None:
        self._options = options
        self._making_locks = Lock()
        self._locks: defaultdict[Path, Lock] = defaultdict(Lock)
        self._failures: dict[Path, StepFailed] = {}

    def repository(self, model: Model, deadline_s: float) -> Path:
        """Return the repository of `model`, exported for the GPU.

        Raises:
            StepFailed: The export failed, now or earlier in this call.
        """
        repository = self._options.work / model.name
        self._once(repository, lambda: self._export(model, repository, deadline_s))
        return repository

    def reference(self, model: Model, deadline_s: float) -> Path:
        """Return the repository of the demo model like `model`, but in float32 and for the CPU.

        Raises:
            StepFailed: The export failed, now or earlier in this call.
        """
        model = replace(model, precision="fp32", own_engines=False)  # one for all of them
        repository = self._options.work / f"reference_{model.name}"
        command = ["export", DEMO_CHECKPOINT, *_what(model), "--repository", str(repository)]
        self._once(repository, lambda: run_module(*command, deadline_s=deadline_s))
        return repository

    def _once(self, repository: Path, export: Callable[[], object]) -> None:
        """Export a missing repository; if that failed before, fail at once in the same way."""
        with self._making_locks:
            lock = self._locks[repository]
        with lock:
            if repository in self._failures:
                raise self._failures[repository]
            if not repository.exists():
                try:
                    export()
                except StepFailed as error:
                    self._failures[repository] = error
                    raise

    def _export(self, model: Model, repository: Path, deadline_s: float) -> None:
        options = self._options
        demo = model.size == DEMO
        whole = model.chunk_ms == WHOLE
        instances = FILES_INSTANCES if whole else options.instances
        live = [] if whole else _live_options(options, model)
        run_module(
            *("export" if demo else "export.random_model", DEMO_CHECKPOINT if demo else model.size),
            *(*_what(model), "--precision", model.precision, "--runtime", "torch"),
            *("--repository", str(repository), *live),
            *("--encoder-instances" if demo else "--instances", str(instances)),
            deadline_s=deadline_s,
            env=os.environ | {"OMP_NUM_THREADS": str(max(1, usable_cores() // 4))},
        )


def _what(model: Model) -> list[str]:
    if model.chunk_ms == WHOLE:
        return ["--mode", "offline"]
    return ["--mode", "streaming", "--chunk-ms", str(model.chunk_ms)]


def _live_options(options: ReportOptions, model: Model) -> list[str]:
    return [
        *("--layout", "fused", "--max-streams", str(slots(options, model))),
        *("--max-batch-size", str(options.max_batch)),
        *(["--own-engines"] if model.own_engines else []),
    ]
