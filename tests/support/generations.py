"""Two generations of one recognizer that emit the same tokens in different spelling.

The second is a copy of the first under another name, with a tokenizer of capital letters: a text
shows the generation that it comes from, and no second export is needed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.support.project import OFFLINE_NAMES

FIRST, SECOND = OFFLINE_NAMES["streaming"], "clinic_v2"


def copy_as(name: str, models: Path, repository: Path) -> None:
    """Copy exported models without a name into ``repository``, as the recognizer ``name``."""
    roles = [model.name for model in models.iterdir() if model.is_dir()]
    for role in roles:
        shutil.copytree(models / role, repository / f"{name}_{role}")
    for config in repository.glob(f"{name}_*/**/*.pbtxt"):
        text = config.read_text()
        for role in roles:
            text = text.replace(f'name: "{role}"', f'name: "{name}_{role}"')
        config.write_text(text)


def install_first(streaming: Path, offline: Path, repository: Path) -> None:
    """Copy exported models into `repository` as FIRST; those that stream have no name yet."""
    copy_as(FIRST, streaming, repository)
    for model in offline.iterdir():
        shutil.copytree(model, repository / model.name)


def install_second(repository: Path) -> None:
    """Copy FIRST to SECOND beside it, with capital letters."""
    for model in list(repository.glob(f"{FIRST}_*")):
        copy = repository / model.name.replace(FIRST, SECOND)
        shutil.copytree(model, copy)
        for config in copy.rglob("*.pbtxt"):
            config.write_text(config.read_text().replace(FIRST, SECOND))
        for tokenizer in copy.rglob("tokenizer.json"):
            _capitalize(tokenizer)


def _capitalize(path: Path) -> None:
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {
        piece if piece.startswith("<") else piece.upper(): index
        for piece, index in vocabulary.items()
    }
    path.write_text(json.dumps(tokenizer))
