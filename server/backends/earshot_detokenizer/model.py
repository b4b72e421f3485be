"""Adapt Triton's Python backend to `earshot_text`, for `backend: "earshot_detokenizer"`.

The inputs of the config determine what a request holds:

- TOKENS int32 [B, M], TOKEN_COUNT int32 [B, 1], PREVIOUS_TOKENS int32 [B, 8] (padded with -1 in
  front): a chunk of a stream. Outputs: TEXT bytes [B, 1], TOKEN_TEXT_LENGTHS int32 [B, M] (padded
  with -1), whose sum is the number of characters of TEXT.
- TOKENS and TOKEN_COUNT alone: a whole utterance. The same outputs.
- FRAME_TOKENS int32 and FRAME_LOGPROBS float32 [B, T], with the parameter `ctc_blank`: the best
  label of every frame. Outputs also TOKENS, TOKEN_FRAMES, TOKEN_LOGPROBS and TOKEN_COUNT.
"""

from __future__ import annotations

import gc
import json
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from earshot_text.checks import EarlierStageFailed, InvalidTokens, check_labels, check_tokens
from earshot_text.ctc import collapse
from earshot_text.detokenizer import Detokenizer

Arrays = dict[str, Any]


class TritonPythonModel:
    """The only instance; Triton fixes the class name and its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load `tokenizer.json` from the model's version folder."""
        folder = Path(args["model_repository"]) / args["model_version"]
        config = json.loads(args["model_config"])
        self._inputs = [entry["name"] for entry in config["input"]]
        self._outputs = [entry["name"] for entry in config["output"]]
        blank = config.get("parameters", {}).get("ctc_blank")
        self._ctc_blank = None if blank is None else int(blank["string_value"])
        self._detokenizer = Detokenizer(folder / "tokenizer.json")
        # The objects of now live as long as the process: later collections can skip them.
        gc.freeze()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response per request, in order."""
        return [self._answer_or_error(request) for request in requests]

    def _answer_or_error(self, request: Any) -> Any:
        try:
            return self._answer(request)
        except InvalidTokens as error:
            failure = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
        except EarlierStageFailed as error:
            failure = pb_utils.TritonError(str(error), pb_utils.TritonError.INTERNAL)
        except Exception as error:  # it would fail the whole batch, and show paths to all clients
            traceback.print_exception(error)
            failure = pb_utils.TritonError(
                f"the detokenizer failed ({type(error).__name__}); the server's log says why",
                pb_utils.TritonError.INTERNAL,
            )
        return pb_utils.InferenceResponse(error=failure)

    def _answer(self, request: Any) -> Any:
        arrays = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in self._inputs
        }
        if self._ctc_blank is not None:
            check_labels(arrays)
            arrays |= collapse(arrays["FRAME_TOKENS"], arrays["FRAME_LOGPROBS"], self._ctc_blank)
        check_tokens(arrays)
        arrays |= self._detokenized(arrays)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, arrays[name]) for name in self._outputs]
        )

    def _detokenized(self, arrays: Arrays) -> Arrays:
        """Return TEXT and TOKEN_TEXT_LENGTHS of each row."""
        lengths = np.full_like(arrays["TOKENS"], -1)
        texts: list[bytes] = []
        for row, (tokens, count) in enumerate(
            zip(arrays["TOKENS"], arrays["TOKEN_COUNT"][:, 0], strict=True)
        ):
            text, added = self._text(tokens[:count].tolist(), row, arrays)
            lengths[row, : len(added)] = added
            texts.append(text.encode())
        text_column = np.array(texts, dtype=np.object_)[:, np.newaxis]
        return {"TEXT": text_column, "TOKEN_TEXT_LENGTHS": lengths}

    def _text(self, tokens: list[int], row: int, arrays: Arrays) -> tuple[str, list[int]]:
        if "PREVIOUS_TOKENS" not in arrays:
            return self._detokenizer.whole(tokens)
        if not tokens:
            return "", []
        previous = arrays["PREVIOUS_TOKENS"][row]
        return self._detokenizer.added(previous[previous >= 0].tolist(), tokens)
