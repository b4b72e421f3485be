"""Count the chunks of silence that each ensemble was sent, for those who count its requests.

The launcher and `python -m server health` send them, each from a process of its own: a file holds
the counts.
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path


class SentCanaries:
    """The counts of the server whose stages show in `folder` that they live."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "canaries"
        self._path.touch()

    def add(self, ensemble: str, count: int) -> None:
        """Count chunks that are about to be sent, so that no reader sees an answer before them."""
        with self._path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            counts = _parse(file.read())
            counts[ensemble] = counts.get(ensemble, 0) + count
            file.seek(0)
            file.write(json.dumps(counts))  # never shorter than before

    def read(self) -> dict[str, int]:
        """Return the chunks by ensemble, since the server's start."""
        with self._path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return _parse(file.read())


def _parse(text: str) -> dict[str, int]:
    return json.loads(text or "{}")
