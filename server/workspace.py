"""Keep the temporary folder of a running server, and remove those of launchers that were killed.

A launcher holds a lock on a file in its folder for as long as it lives, however it dies. A folder
whose lock nobody holds is removed by the next launcher, with the shared memory of its server.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import TritonDied

BACKENDS = "backends"
_PREFIX = "earshot-"
_OWNER = ".owner"
_SHM = Path("/dev/shm")


@contextmanager
def workspace() -> Generator[Path]:
    """Provide a temporary folder, which is kept with its log if Triton dies."""
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    with _owning(folder):
        try:
            yield folder
        except TritonDied:
            (folder / _OWNER).unlink()  # so that the log can be read
            shutil.rmtree(folder / BACKENDS)
            raise
        except BaseException:
            shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


def shm_prefix(folder: Path) -> str:
    """Return the prefix of the names of all shared memory of the server in `folder`."""
    return f"{folder.name}-"


def clear_shared_memory(prefix: str) -> None:
    """Remove the shared memory of a server that has ended."""
    for region in _SHM.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def hide_shared_memory(prefix: str) -> None:
    """Keep other users from the shared memory of a server, which holds the speech of all streams.

    Triton makes it readable for all, whatever the umask.
    """
    for region in _SHM.glob(f"{prefix}*"):
        with contextlib.suppress(FileNotFoundError):
            region.chmod(0o600)


@contextmanager
def _owning(folder: Path) -> Generator[None]:
    new = folder / f"{_OWNER}.new"
    with new.open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        new.rename(folder / _OWNER)  # never seen by others without its lock
        yield


def _remove_abandoned() -> None:
    for owner in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_OWNER}"):
        # It belongs to another user, or another launcher has removed it.
        with contextlib.suppress(OSError), owner.open() as file:
            if _is_free(file):
                clear_shared_memory(shm_prefix(owner.parent))
                shutil.rmtree(owner.parent)


def _is_free(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
