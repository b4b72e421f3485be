"""Triton's door to `earshot_text`: serves models with `backend: "earshot_detokenizer"`.

Inputs per request: TOKENS int32 [1, M], TOKEN_COUNT int32 [1, 1], PREVIOUS_TOKENS int32 [1, 8]
(padded with -1 in front). Outputs: TEXT bytes [1, 1], TOKEN_TEXT_LENGTHS int32 [1, M] (padded
with -1), whose sum is the number of characters of TEXT.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from earshot_text.detokenizer import Detokenizer


class TritonPythonModel:
    """The only instance; Triton fixes the class name and its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads `tokenizer.json` from the model's version folder."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self._detokenizer = Detokenizer(folder / "tokenizer.json")
        # What is there now stays: collections between chunks need not walk it again.
        gc.freeze()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request, in order."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        tokens, count, previous = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0]
            for name in ("TOKENS", "TOKEN_COUNT", "PREVIOUS_TOKENS")
        )
        text, added = "", []
        if count[0]:
            context = previous[previous >= 0].tolist()
            text, added = self._detokenizer.added(context, tokens[: count[0]].tolist())
        lengths = np.full((1, len(tokens)), -1, dtype=np.int32)
        lengths[0, : len(added)] = added
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("TEXT", np.array([[text.encode()]], dtype=np.object_)),
                pb_utils.Tensor("TOKEN_TEXT_LENGTHS", lengths),
            ]
        )
