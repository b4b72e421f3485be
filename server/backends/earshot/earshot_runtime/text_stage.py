"""Serve a stage without an engine, which converts the tokens of another stage to text.

Stages of this backend convert their own tokens. This one is for engines of Triton's TensorRT
backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from .chunks import Outcome
from .counts import Sample
from .errors import BadStage
from .spec import StageSpec
from .token_checks import reject_labels, reject_tokens
from .utterance_engine import Array

if TYPE_CHECKING:  # it imports a library that other stages do not need
    from .text import Texts


class TextStage:
    """Keeps no state: the stage before it passes on the context of a stream."""

    def __init__(self, spec: StageSpec, texts: Texts | None) -> None:
        """Serve `spec` with `texts`, or raise BadStage if it has no text outputs."""
        if texts is None:
            raise BadStage(f"{spec.model}: runtime tokenizers needs the output TEXT")
        self._names = [tensor.name for tensor in spec.inputs]
        self._texts = texts

    def process(
        self,
        requests: Sequence[list[Array]],
        adapters: Sequence[str] = (),
        running: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> list[Outcome]:
        """See `UtteranceStage.process`; there are no adapters."""
        with running():
            return [self._answer(inputs) for inputs in requests]

    def metrics(self) -> dict[Sample, float]:
        """Return no metrics: Triton itself counts the requests."""
        return {}

    def _answer(self, inputs: list[Array]) -> Outcome:
        arrays = dict(zip(self._names, inputs, strict=True))
        reject = reject_tokens if "TOKENS" in arrays else reject_labels
        if error := reject(arrays):
            return error
        outputs, errors = self._texts.of(arrays)
        return next(iter(errors.values()), outputs)
