"""Compute the outputs for clients that no engine computes: the tokens of CTC labels, and text.

Text is computed in the process of the last engine: a separate stage would cost a hop through Triton
for every chunk, which takes longer than the conversion.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .checks import Arrays, Errors
from .chunks import Rows
from .ctc import collapse
from .detokenizer import Detokenizer
from .errors import BadStage, RunFailed
from .spec import StageSpec


class Texts:
    """Converts the tokens of a batch to the outputs `text_outputs` of a stage."""

    def __init__(self, folder: Path, spec: StageSpec) -> None:
        """Open `tokenizer.json` in `folder`, or raise BadStage."""
        path = folder / "tokenizer.json"
        try:
            self._detokenizer = Detokenizer(path)
        except Exception as error:  # the library raises bare exceptions
            raise BadStage(f"{spec.model}: cannot load {path}: {error}") from error
        self._names = [tensor.name for tensor in spec.text_outputs]
        self._ctc_blank = spec.ctc_blank

    def of(self, arrays: Arrays) -> tuple[Rows, Errors]:
        """Return the text outputs of `arrays` in the config's order, and an error for each bad row.

        Args:
            arrays: TOKENS int32 [B, M] and TOKEN_COUNT int32 [B, 1], or FRAME_TOKENS int32 and
                FRAME_LOGPROBS float32 [B, T] of CTC; PREVIOUS_TOKENS int32 [B, 8], padded with -1
                in front, if the rows are chunks and not whole utterances.
        """
        if self._ctc_blank is not None:
            tokens = collapse(arrays["FRAME_TOKENS"], arrays["FRAME_LOGPROBS"], self._ctc_blank)
            arrays = {**arrays, **tokens}
        text, errors = self._text(arrays)
        computed = {**arrays, **text}
        return tuple(computed[name] for name in self._names), errors

    def _text(self, arrays: Arrays) -> tuple[dict[str, npt.NDArray[Any]], Errors]:
        """Return TEXT bytes [B, 1], and TOKEN_TEXT_LENGTHS int32 [B, M], padded with -1.

        The lengths add up to the number of characters of the text.
        """
        tokens, counts = arrays["TOKENS"], arrays["TOKEN_COUNT"][:, 0]
        lengths = np.full_like(tokens, -1)
        texts = np.full((len(tokens), 1), b"", np.object_)
        errors: Errors = {}
        for row in np.flatnonzero(counts).tolist():
            previous = arrays["PREVIOUS_TOKENS"][row] if "PREVIOUS_TOKENS" in arrays else None
            try:
                text, added = self._added(previous, tokens[row, : counts[row]].tolist())
            except Exception as error:  # the library raises bare exceptions
                errors[row] = RunFailed.of(error, 1, "the tokenizer")
                continue
            texts[row, 0] = text.encode()
            lengths[row, : len(added)] = added
        return {"TEXT": texts, "TOKEN_TEXT_LENGTHS": lengths}, errors

    def _added(self, previous: npt.NDArray[Any] | None, tokens: list[int]) -> tuple[str, list[int]]:
        if previous is None:
            return self._detokenizer.whole(tokens)
        return self._detokenizer.added(previous[previous >= 0].tolist(), tokens)
