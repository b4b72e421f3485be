"""Count the chunks of silence sent to each ensemble, to subtract them from its requests.

The launcher and `python -m server health` send them from different processes, so a file holds the
counts.
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path


class SentCanaries:
    """The counts of the server whose heartbeats are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "canaries"
        self._path.touch()

    def add(self, ensemble: str, count: int) -> None:
        """Count chunks before they are sent, so that the count never lags behind the answers."""
        with self._path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            counts = _parse(file.read())
            counts[ensemble] = counts.get(ensemble, 0) + count
            file.seek(0)
            file.write(json.dumps(counts))  # never shorter than before, as counts only grow

    def read(self) -> dict[str, int]:
        """Return the number of chunks by ensemble, since the server's start."""
        with self._path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return _parse(file.read())


def _parse(text: str) -> dict[str, int]:
    return json.loads(text or "{}")
