"""Models of a GPU report, each exported once, several at the same time."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from threading import Lock

from loadtest.gpu.plan import DEMO, Model, ReportOptions, slots
from loadtest.gpu.process import StepFailed, run_module
from loadtest.result.machine import usable_cores

DEMO_CHECKPOINT = "checkpoints/demo"


class Exports:
    """Repositories of models; what is there from an earlier call is used."""

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

    def reference(self, deadline_s: float) -> Path:
        """Return the repository of the demo model in float32 for the CPU.

        Raises:
            StepFailed: The export failed, now or earlier in this call.
        """
        repository = self._options.work / "reference"
        chunk = ["--chunk-ms", str(self._options.chunks_ms[0])]
        command = ["export", DEMO_CHECKPOINT, *chunk, "--repository", str(repository)]
        self._once(repository, lambda: run_module(*command, deadline_s=deadline_s))
        return repository

    def _once(self, repository: Path, export: Callable[[], object]) -> None:
        """Export what is missing; a step that comes later fails as the first one did, at once."""
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
        run_module(
            *("export" if demo else "export.random_model", DEMO_CHECKPOINT if demo else model.size),
            *("--chunk-ms", str(model.chunk_ms), "--precision", model.precision),
            *("--runtime", "torch", "--layout", "fused", "--repository", str(repository)),
            *("--max-streams", str(slots(options, model))),
            *("--max-batch-size", str(options.max_batch)),
            *("--encoder-instances" if demo else "--instances", str(options.instances)),
            deadline_s=deadline_s,
            env=os.environ | {"OMP_NUM_THREADS": str(max(1, usable_cores() // 4))},
        )
