"""Print the progress of opening an engine, which takes half a minute on a GPU."""

from __future__ import annotations

import sys
import time


class Opening:
    """Prints the duration of each phase of opening a model's engine."""

    def __init__(self, model: str) -> None:
        """Begin the first phase."""
        self._model = model
        self._began_s = time.monotonic()

    def done(self, phase: str) -> None:
        """Print that a phase has ended, and begin the next one."""
        ended_s = time.monotonic()
        # stderr is Triton's log; the launcher looks there for lines that begin like this.
        line = f"opening {self._model}: {phase} {ended_s - self._began_s:.1f} s"
        print(line, file=sys.stderr, flush=True)
        self._began_s = ended_s
