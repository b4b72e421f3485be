"""Store dataclasses as JSON documents."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import TypeAdapter, ValidationError

from loadtest.result.files import write_whole
from loadtest.result.invalid import reason


class Stored:
    """Base of the dataclass of a document; `NOUN` names the measurement in errors."""

    NOUN: ClassVar[str]

    def write(self, path: Path) -> None:
        """Write the document atomically."""
        write_whole(path, _adapter(type(self)).dump_json(self, indent=1).decode() + "\n")

    @classmethod
    def from_json(cls, path: Path) -> Self:
        """Read a document.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is not such a document.
        """
        try:
            return _adapter(cls).validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path} is not the result of {cls.NOUN}: {reason(error)}") from error


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
