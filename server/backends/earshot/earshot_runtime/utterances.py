"""A stage without state: a batch of whole utterances of any lengths in a few runs of the graph.

Padding is computed like speech, so utterances of like length run together, cut to the longest of
them. The lengths come with the values, and the graph keeps out what lies behind them: what else is
in a run changes no result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .checks import ContentChecks, reject_length
from .chunks import Outcome
from .errors import ChunkError, RunFailed
from .graph import Graph
from .spec import StageSpec

Array = npt.NDArray[Any]

_MOST_ROWS = 16
"""More rows in a run save no more time, but take the memory of all of them."""
_FULL_ROWS = 8
"""A run of fewer rows is filled up, at the price of more padding."""
_LEAST_SHARE = 0.7
"""Shortest utterance of a full run, as a share of the longest."""
_LEAST_SHARE_TO_FILL = 0.5
"""The same of a run that is not full yet: no utterance is padded to more than twice its length."""


@dataclass(frozen=True)
class Utterances:
    """The inputs of one request, [rows, ...] each, and the length of its longest row."""

    inputs: list[Array]
    length: int

    @property
    def rows(self) -> int:
        """Utterances in the request."""
        return len(self.inputs[0])


class UtteranceStage:
    """Answers requests; `runs` and `rows` count what the graph has done."""

    def __init__(self, spec: StageSpec, graph: Graph) -> None:
        self.runs = 0
        self.rows = 0
        self._spec = spec
        self._session = graph.session
        self._content = ContentChecks(spec)
        names = [tensor.name for tensor in spec.inputs]
        # Present: a spec without them and without state is refused.
        self._length = names.index(str(spec.length_input))
        self._values = names.index(str(spec.length_of))
        self._warm_up()

    def _warm_up(self) -> None:
        """A first run at load: what is wrong with the graph is said before a client comes."""
        tensor = self._spec.inputs[self._values]
        shape = [self._spec.length_step if dim < 0 else dim for dim in tensor.dims]
        inputs: list[Array] = [np.zeros((1, 1), np.int32) for _ in self._spec.inputs]
        inputs[self._values] = np.zeros((1, *shape), tensor.dtype)
        outcome = self._run([Utterances(inputs, 0)])[0]
        if isinstance(outcome, RunFailed):
            raise outcome

    def process(self, requests: Sequence[list[Array]]) -> list[Outcome]:
        """One outcome per request, in order; each request has one array per input."""
        outcomes: dict[int, Outcome] = {}
        accepted: dict[int, Utterances] = {}
        for index, inputs in enumerate(requests):
            error = self._reject(inputs)
            if error is None:
                accepted[index] = Utterances(inputs, int(inputs[self._length].max()))
            else:
                outcomes[index] = error
        for run in packed(accepted):
            outcomes |= zip(run, self._run([accepted[index] for index in run]), strict=True)
        return [outcomes[index] for index in range(len(requests))]

    def _reject(self, inputs: list[Array]) -> ChunkError | None:
        values = inputs[self._values]
        if error := reject_length(self._spec, values.shape[1]):
            return error
        names = (tensor.name for tensor in self._spec.inputs)
        errors = self._content.reject(dict(zip(names, inputs, strict=True)))
        return next(iter(errors.values()), None)

    def _run(self, requests: list[Utterances]) -> list[Outcome]:
        feed = {
            tensor.name: np.concatenate([request.inputs[index] for request in requests])
            for index, tensor in enumerate(self._spec.inputs)
            if index != self._values
        }
        feed[self._spec.inputs[self._values].name] = self._padded(requests)
        rows = sum(request.rows for request in requests)
        try:
            outputs: Any = self._session.run([tensor.name for tensor in self._spec.outputs], feed)
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            failure = RunFailed(f"ONNX Runtime failed on a batch of {rows}: {error}")
            return [failure] * len(requests)
        self.runs += 1
        self.rows += rows
        ends = np.cumsum([request.rows for request in requests])
        pieces = zip(*(np.split(output, ends[:-1]) for output in outputs), strict=True)
        return [tuple(piece) for piece in pieces]

    def _padded(self, requests: list[Utterances]) -> Array:
        """The values of all requests, cut or padded with zeros to the longest utterance."""
        step = self._spec.length_step
        longest = max(request.length for request in requests)
        length = max(1, -(-longest // step)) * step
        tensor = self._spec.inputs[self._values]
        first = requests[0].inputs[self._values]
        rows = sum(request.rows for request in requests)
        padded = np.zeros((rows, length, *first.shape[2:]), tensor.dtype)
        row = 0
        for request in requests:
            values = request.inputs[self._values][:, : request.length]
            padded[row : row + request.rows, : values.shape[1]] = values
            row += request.rows
        return padded


def packed(requests: dict[int, Utterances]) -> list[list[int]]:
    """Keys of `requests` as runs: the longest utterances first, each run of like lengths."""
    runs: list[list[int]] = []
    longest = rows = 0
    for key in sorted(requests, key=lambda key: -requests[key].length):
        request = requests[key]
        share = _LEAST_SHARE_TO_FILL if rows < _FULL_ROWS else _LEAST_SHARE
        fits = request.length >= share * longest and rows + request.rows <= _MOST_ROWS
        if not runs or not fits:
            runs.append([])
            longest, rows = request.length, 0
        runs[-1].append(key)
        rows += request.rows
    return runs
