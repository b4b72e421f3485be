"""Connect to the server under load, from every process of a load test alike."""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import earshot

NO_RESUMING = earshot.Timeouts(resume_s=0)
"""A load test must not hide that a server has lost its streams."""
_TOKEN = "EARSHOT_TOKEN"
_FILES = {
    "root_certificates": "EARSHOT_ROOT_CERTIFICATES",
    "certificate": "EARSHOT_CERTIFICATE",
    "key": "EARSHOT_KEY",
}


def connect(url: str, model: str | None) -> earshot.Client:
    """Connect; raise as `earshot.connect`, OSError for a file that cannot be read."""
    return earshot.connect(url, model=model, timeouts=NO_RESUMING, **_credentials())


def connect_async(url: str, model: str | None) -> AbstractAsyncContextManager[earshot.AsyncClient]:
    """Connect for the length of an `async with` block; raise as `connect`."""
    return earshot.connect_async(url, model=model, timeouts=NO_RESUMING, **_credentials())


def _credentials() -> dict[str, Any]:
    """Return the token and the contents of the files that the environment names.

    Not options: other users of the machine see these, and each worker would need them again.
    """
    files = {
        argument: Path(os.environ[variable]).read_bytes()
        for argument, variable in _FILES.items()
        if os.environ.get(variable)
    }
    return {"token": os.environ.get(_TOKEN) or None, **files}
