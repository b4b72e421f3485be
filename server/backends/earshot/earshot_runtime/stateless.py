"""A stage without state: requests of equal shape share a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .checks import ContentChecks
from .chunks import Chunks, Outcome
from .errors import ChunkError, RunFailed
from .graph import Graph
from .spec import StageSpec


class StatelessStage:
    """Answers each request from its inputs alone; a request may bring several rows."""

    def __init__(self, spec: StageSpec, graph: Graph) -> None:
        self._session = graph.session
        self._inputs = tuple(tensor.name for tensor in spec.inputs)
        self._outputs = tuple(tensor.name for tensor in spec.outputs)
        self._content = ContentChecks(spec)

    def process(self, chunks: Chunks) -> list[Outcome]:
        """One outcome per request."""
        requests = list(zip(*chunks.inputs, strict=True))
        outcomes: list[Outcome | None] = [self._refuse(request) for request in requests]
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for index, request in enumerate(requests):
            if outcomes[index] is None:
                groups.setdefault(tuple(array.shape[1:] for array in request), []).append(index)
        for group in groups.values():
            for index, outcome in zip(group, self._run(chunks.pick(group)), strict=True):
                outcomes[index] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _refuse(self, request: tuple[npt.NDArray[Any], ...]) -> ChunkError | None:
        errors = self._content.reject(dict(zip(self._inputs, request, strict=True)))
        return next(iter(errors.values()), None)

    def _run(self, chunks: Chunks) -> list[Outcome]:
        feeds = {
            name: np.concatenate(column)
            for name, column in zip(self._inputs, chunks.inputs, strict=True)
        }
        try:
            outputs: Sequence[Any] = self._session.run(self._outputs, feeds)
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            return [RunFailed(f"ONNX Runtime failed: {error}")] * len(chunks)
        bounds = np.cumsum([len(array) for array in chunks.inputs[0]])[:-1]
        return list(zip(*(np.split(output, bounds) for output in outputs), strict=True))
