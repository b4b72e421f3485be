"""Put an exported model into a model repository in one step, or not at all.

Everything is built and checked in a folder beside the repository. Only then do its models take the
places of the old ones, by renames; if anything goes wrong meanwhile, the old ones are put back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from export.errors import UnsupportedOption


@contextmanager
def replacing(repository: Path, models: list[str], obsolete: Sequence[str] = ()) -> Generator[Path]:
    """Yield an empty folder to build ``models`` in; install them when the block ends well.

    The models called ``obsolete`` go with the old ones; others stay as they are. If the block
    raises, nothing changes.

    Raises:
        UnsupportedOption: ``repository`` is a folder of something else.
    """
    repository = repository.resolve()
    _refuse_foreign_folder(repository, [*models, *obsolete])
    repository.parent.mkdir(parents=True, exist_ok=True)
    workspace = tempfile.TemporaryDirectory(prefix=f".{repository.name}.", dir=repository.parent)
    with workspace as folder:
        built, replaced = Path(folder) / "new", Path(folder) / "old"
        built.mkdir()
        replaced.mkdir()
        yield built
        repository.mkdir(exist_ok=True)
        _swap(built, repository, replaced, models, obsolete)


def _refuse_foreign_folder(repository: Path, models: list[str]) -> None:
    if repository.is_mount():
        raise UnsupportedOption(
            f"{repository} is a mount point, where models cannot be replaced in one step; export "
            "into a folder inside it"
        )
    for model in models:
        folder = repository / model
        if folder.exists() and not any(folder.glob("**/*.pbtxt")):
            raise UnsupportedOption(
                f"{folder} holds no model config, so {repository} is not a model repository; "
                "choose another --repository"
            )


def _swap(
    built: Path, repository: Path, replaced: Path, models: list[str], obsolete: Sequence[str]
) -> None:
    try:
        for model in (*obsolete, *models):
            if (repository / model).exists():
                (repository / model).rename(replaced / model)
        for model in models:
            (built / model).rename(repository / model)
    except BaseException:
        _put_back(repository, replaced, built)
        raise


def _put_back(repository: Path, replaced: Path, built: Path) -> None:
    for old in replaced.iterdir():
        if (repository / old.name).exists():
            (repository / old.name).rename(built / old.name)
        old.rename(repository / old.name)
