"""Run whole utterances on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .graph import open_graph
from .spec import StageSpec
from .utterance_engine import Array

_MOST_ROWS = 16
"""More rows in a run save no time on a core and take more memory."""


class OnnxUtterances:
    """Implements `UtteranceEngine` with an ONNX graph on the CPU."""

    def __init__(self, path: Path, spec: StageSpec) -> None:
        """Open the graph at `path`, or raise BadStage."""
        self._session = open_graph(path, spec).session
        self._inputs = [tensor.name for tensor in spec.inputs]
        self._outputs = [tensor.name for tensor in spec.outputs]

    def most_rows(self, length: int) -> int:
        """See `UtteranceEngine.most_rows`; the length does not matter."""
        return _MOST_ROWS

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """See `UtteranceEngine.run`."""
        feed = dict(zip(self._inputs, inputs, strict=True))
        outputs: Any = self._session.run(self._outputs, feed)
        return outputs
