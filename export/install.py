"""Install exported models into a model repository atomically.

Everything is built and checked in a folder beside the repository. Only then do the new models
replace the old ones, by renames; if a rename fails, the old ones are restored.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from export.checkpoint import Checkpoint
from export.errors import UnsupportedOption


class Replacement:
    """Models that are being built for a repository, and the ones that they will replace.

    Args:
        repository: the model repository; absolute.
        folder: an empty folder to build them in, on the same file system.
    """

    def __init__(self, repository: Path, folder: Path) -> None:
        self.repository = repository
        self.folder = folder
        self.models: list[str] = []
        self.obsolete: list[str] = []

    def add(self, models: Sequence[str], obsolete: Sequence[str] = ()) -> Path:
        """Register `models` and return the folder to build them in.

        Args:
            models: names of the models to build, which replace those of the same names.
            obsolete: names of models to remove from the repository; all others stay as they are.

        Raises:
            UnsupportedOption: the repository is not a model repository.
        """
        _refuse_foreign_folder(self.repository, models, obsolete)
        self.models += models
        self.obsolete += obsolete
        return self.folder


@contextmanager
def replacing(repository: Path) -> Generator[Replacement]:
    """Install all models of the `Replacement` when the block ends without an error.

    If the block raises, nothing changes.
    """
    repository = repository.resolve()
    repository.parent.mkdir(parents=True, exist_ok=True)
    workspace = tempfile.TemporaryDirectory(prefix=f".{repository.name}.", dir=repository.parent)
    with workspace as folder:
        built, replaced = Path(folder) / "new", Path(folder) / "old"
        built.mkdir()
        replaced.mkdir()
        new = Replacement(repository, built)
        yield new
        repository.mkdir(exist_ok=True)
        _swap(new, replaced)


def _refuse_foreign_folder(
    repository: Path, models: Sequence[str], obsolete: Sequence[str]
) -> None:
    if repository.is_mount():
        raise UnsupportedOption(
            f"{repository} is a mount point, where models cannot be replaced in one step; export "
            "into a folder inside it"
        )
    for model in (*models, *obsolete):
        folder = repository / model
        if not folder.exists() or any(folder.glob("**/*.pbtxt")):
            continue
        # If a config under version control was removed, the files that git ignores are left.
        left_over = model in obsolete and [child.name for child in folder.iterdir()] == ["1"]
        if not left_over:
            raise UnsupportedOption(
                f"{folder} holds no model config, so {repository} is not a model repository; "
                "choose another --repository"
            )


def _swap(new: Replacement, replaced: Path) -> None:
    repository = new.repository
    try:
        for model in (*new.obsolete, *new.models):
            if (repository / model).exists():
                (repository / model).rename(replaced / model)
        for model in new.models:
            (new.folder / model).rename(repository / model)
    except BaseException:
        _put_back(repository, replaced, new.folder)
        raise


def _put_back(repository: Path, replaced: Path, built: Path) -> None:
    for old in replaced.iterdir():
        if (repository / old.name).exists():
            (repository / old.name).rename(built / old.name)
        old.rename(repository / old.name)


def write_configs(folder: Path, files: Mapping[str, str]) -> None:
    """Write the texts of `files`, whose keys are paths inside `folder`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def write_tokenizer(model: Path, checkpoint: Checkpoint) -> None:
    """Write the tokenizer for the `tokenizers` library, so that serving needs no transformers."""
    version = model / "1"
    version.mkdir(parents=True, exist_ok=True)
    checkpoint.processor.tokenizer.backend_tokenizer.save(str(version / "tokenizer.json"))
