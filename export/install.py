"""Put an exported model into a model repository in one step, or not at all.

The new repository is built beside the old one and takes its place by a rename: a server that
starts meanwhile, or a crash, sees the old models or the new ones, never a mixture.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(repository: Path, models: list[str]) -> Generator[Path]:
    """Yield an empty folder to build ``models`` in; install them when the block ends well.

    Other models of the repository stay. If the block raises, the repository is left untouched.
    """
    repository = repository.resolve()
    repository.parent.mkdir(parents=True, exist_ok=True)
    workspace = tempfile.TemporaryDirectory(prefix=f".{repository.name}.", dir=repository.parent)
    with workspace as folder:
        built = Path(folder) / "new"
        built.mkdir()
        yield built
        if repository.exists():
            _keep_others(repository, built, models)
        _swap(built, repository, Path(folder) / "old")


def _keep_others(repository: Path, built: Path, models: list[str]) -> None:
    for entry in repository.iterdir():
        if entry.name in models:
            continue
        if entry.is_dir():
            shutil.copytree(entry, built / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, built / entry.name)


def _swap(new: Path, repository: Path, old: Path) -> None:
    if not repository.exists():
        new.rename(repository)
        return
    repository.rename(old)
    try:
        new.rename(repository)
    except OSError:
        old.rename(repository)
        raise
