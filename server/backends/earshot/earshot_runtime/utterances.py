"""Run a stage without state: whole utterances of any lengths, in a few runs of the graph.

Padding costs as much as speech, so utterances of similar length run together, cut to the longest of
them. The graph masks everything after the length of an utterance, so results do not depend on the
other utterances in the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .adapter_files import AdapterFile
from .adapters import NONE, AdapterSlots, LoadedAdapters
from .checks import ContentChecks, reject_length, reject_outputs
from .chunks import Outcome, Rows
from .counts import Sample
from .errors import ChunkError, RunFailed
from .spec import StageSpec
from .utterance_engine import Array, UtteranceEngine

if TYPE_CHECKING:  # it imports a library that other stages do not need
    from .text import Texts

_FULL = 0.5
"""A run with less than this share of its allowed rows accepts further utterances, at the cost of
more padding."""
_LEAST_SHARE = 0.7
"""Shortest utterance of a full run, as a share of the longest."""
_LEAST_SHARE_TO_FILL = 0.5
"""The same for a run that is not full yet: no utterance is padded to more than twice its length."""


@dataclass(frozen=True)
class Utterances:
    """The inputs of one request, [rows, ...] each, and the length of its longest row."""

    inputs: list[Array]
    length: int
    adapter: AdapterFile | None = None

    @property
    def rows(self) -> int:
        """Return the number of utterances in the request."""
        return len(self.inputs[0])


class UtteranceStage:
    """Answers requests; `runs` and `rows` count the runs of the graph and their rows."""

    def __init__(
        self,
        spec: StageSpec,
        engine: UtteranceEngine,
        adapters: LoadedAdapters | None = None,
        texts: Texts | None = None,
    ) -> None:
        """Serve `spec` on `engine`.

        Args:
            adapters: the adapters of a stage that adapters change.
            texts: computes the text outputs of a stage that has any.
        """
        self.runs = 0
        self.rows = 0
        self._spec = spec
        self._engine = engine
        self._adapters = adapters
        self._texts = texts
        self._content = ContentChecks(spec)
        names = [tensor.name for tensor in spec.inputs]
        # Never None here: a spec with neither a length input nor state is refused.
        self._length = names.index(str(spec.length_input))
        self._values = names.index(str(spec.length_of))
        self._warm_up()

    def _warm_up(self) -> None:
        """Run once while the model loads, so that an error of a graph appears at once."""
        tensor = self._spec.inputs[self._values]
        shape = [self._spec.length_step if dim < 0 else dim for dim in tensor.dims]
        inputs: list[Array] = [np.zeros((1, 1), np.int32) for _ in self._spec.inputs]
        inputs[self._values] = np.zeros((1, *shape), tensor.dtype)
        self._compute([Utterances(inputs, 0)], None)
        if self._adapters is not None:
            self._compute([Utterances(inputs, 0)], np.zeros(1, np.int64))

    def process(
        self,
        requests: Sequence[list[Array]],
        adapters: Sequence[str] = (),
        running: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> list[Outcome]:
        """Return one outcome per request, in order.

        Args:
            requests: for each request, one array per input.
            adapters: the name of each request's adapter, "" for none; by default none has one.
            running: opens a context around each run.
        """
        outcomes: dict[int, Outcome] = {}
        accepted: dict[int, Utterances] = {}
        names = adapters or [""] * len(requests)
        for index, (inputs, name) in enumerate(zip(requests, names, strict=True)):
            try:
                accepted[index] = self._accept(inputs, name)
            except ChunkError as error:
                outcomes[index] = error
        most_adapters = self._adapters.capacity if self._adapters else 0
        for run in packed(accepted, self._engine.most_rows, most_adapters):
            with running():
                outcomes |= self._run({index: accepted[index] for index in run})
        return [outcomes[index] for index in range(len(requests))]

    def metrics(self) -> dict[Sample, float]:
        """Return the counts of runs; Triton counts only its own batches."""
        return {
            ("earshot_runs_total", ()): self.runs,
            ("earshot_rows_total", ()): self.rows,
            **(self._adapters.metrics() if self._adapters else {}),
        }

    def _accept(self, inputs: list[Array], name: str) -> Utterances:
        """Return the request with its adapter, or raise ChunkError."""
        if error := self._reject(inputs):
            raise error
        adapter = self._adapters.find(name) if name and self._adapters else None
        return Utterances(inputs, int(inputs[self._length].max()), adapter)

    def _reject(self, inputs: list[Array]) -> ChunkError | None:
        values = inputs[self._values]
        if error := reject_length(self._spec, values.shape[1]):
            return error
        names = (tensor.name for tensor in self._spec.inputs)
        errors = self._content.reject(dict(zip(names, inputs, strict=True)))
        return next(iter(errors.values()), None)

    def _run(self, requests: Mapping[int, Utterances]) -> dict[int, Outcome]:
        """Return the outcome of each request of a run."""
        slots, errors = self._load_adapters(requests)
        good = [requests[key] for key in slots]
        rows = np.repeat(list(slots.values()), [request.rows for request in good])
        outcomes = self._run_rows(good, rows if rows.any() else None) if good else []
        return {**errors, **dict(zip(slots, outcomes, strict=True))}

    def _load_adapters(
        self, requests: Mapping[int, Utterances]
    ) -> tuple[dict[int, int], dict[int, ChunkError]]:
        """Return the slot of each request's adapter, or the error of one that cannot be read.

        There is room for all adapters of a run, and any of them may be replaced after it.
        """
        slots: dict[int, int] = {}
        errors: dict[int, ChunkError] = {}
        for key, request in requests.items():
            try:
                slots[key] = self._loaded(request.adapter, in_use=set(slots.values()))
            except ChunkError as error:
                errors[key] = error
        return slots, errors

    def _loaded(self, adapter: AdapterFile | None, in_use: set[int]) -> int:
        if adapter is None or self._adapters is None:
            return NONE
        return self._adapters.load(adapter, in_use)

    def _run_rows(self, requests: list[Utterances], slots: AdapterSlots | None) -> list[Outcome]:
        rows = sum(request.rows for request in requests)
        try:
            outputs = self._compute(requests, slots)
        except Exception as error:  # exceptions of the libraries share no base class
            return [RunFailed.of(error, rows)] * len(requests)
        self.runs += 1
        self.rows += rows
        ends = np.cumsum([request.rows for request in requests])
        pieces = zip(*(np.split(output, ends[:-1]) for output in outputs), strict=True)
        return [self._answer(tuple(piece)) for piece in pieces]

    def _answer(self, piece: Rows) -> Outcome:
        """Return the outputs of a request with their text, or an error if they are not finite."""
        names = (tensor.name for tensor in self._spec.outputs)
        outputs = dict(zip(names, piece, strict=True))
        errors = reject_outputs(outputs)
        if self._texts is not None and not errors:
            text, errors = self._texts.of(outputs)
            piece += text
        return next(iter(errors.values()), piece)

    def _compute(self, requests: list[Utterances], slots: AdapterSlots | None) -> list[Array]:
        """Return the outputs for all rows of the requests, in order.

        Args:
            slots: the slot of each row's adapter; None if no row has one.
        """
        inputs = [
            self._padded(requests)
            if index == self._values
            else np.concatenate([request.inputs[index] for request in requests])
            for index in range(len(self._spec.inputs))
        ]
        return self._engine.run(inputs, slots)

    def _padded(self, requests: list[Utterances]) -> Array:
        """Return the values of all requests, cut or padded with zeros to the longest utterance."""
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


def packed(
    requests: dict[int, Utterances], most_rows: Callable[[int], int], most_adapters: int = 0
) -> list[list[int]]:
    """Return the keys of `requests` in runs of similar lengths, the longest utterances first.

    Args:
        most_rows: returns the largest number of rows of a run, for the length of its longest row.
        most_adapters: the number of adapters that fit into memory at once.
    """
    runs: list[list[int]] = []
    adapters: set[AdapterFile] = set()
    longest = rows = 0
    for key in sorted(requests, key=lambda key: -requests[key].length):
        request = requests[key]
        most = most_rows(longest)
        share = _LEAST_SHARE_TO_FILL if rows < _FULL * most else _LEAST_SHARE
        own = set() if request.adapter is None else {request.adapter}
        fits = request.length >= share * longest and rows + request.rows <= most
        if not runs or not fits or len(adapters | own) > most_adapters:
            runs.append([])
            longest, rows, adapters = request.length, 0, set()
        runs[-1].append(key)
        rows += request.rows
        adapters |= own
    return runs
