"""Write the files of heads that `python -m export.heads` reads: weights and their description."""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from training.head.examples import Question
from training.head.model import SCORE_BOUND, Heads

WEIGHTS, DESCRIPTION = "heads.safetensors", "head.json"
FORMAT = 1


def write_heads(
    heads: Heads,
    questions: Sequence[Question],
    base: Path,
    base_sha256: str,
    lookahead: int,
    folder: Path,
) -> None:
    """Write `heads.safetensors` and `head.json` into `folder`."""
    folder.mkdir(parents=True)
    save_file(heads.tensors([question.name for question in questions]), folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes it readable for its owner only
    description = {
        "format": FORMAT,
        "base": str(base),
        "base_sha256": base_sha256,
        "lookahead": lookahead,
        "score_bound": SCORE_BOUND,
        "heads": [
            {"name": question.name, "labels": list(question.labels)} for question in questions
        ],
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
