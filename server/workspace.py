"""Manage the temporary folder of a running server, and remove those of launchers that were killed.

A launcher holds a lock on a file in its folder until it ends, in whatever way. The next launcher
removes a folder whose lock is free, with the shared memory of its server.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .access import Access
from .errors import NoServer, TritonDied
from .ports import Endpoints

BACKENDS = "backends"
HEARTBEATS = "heartbeats"
_PREFIX = "earshot-"
_OWNER = ".owner"
_LAUNCHER = "launcher.json"
_SHM = Path("/dev/shm")


@contextmanager
def workspace() -> Generator[Path]:
    """Provide a temporary folder; if Triton dies, keep it with its log."""
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    (folder / HEARTBEATS).mkdir()
    with _owning(folder):
        try:
            yield folder
        except TritonDied:
            (folder / _OWNER).unlink()  # so that the log can be read
            for name in (BACKENDS, HEARTBEATS):
                shutil.rmtree(folder / name)
            raise
        except BaseException:
            shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


def shm_prefix(folder: Path) -> str:
    """Return the prefix of the names of all shared memory of the server in `folder`."""
    return f"{folder.name}-"


@dataclass(frozen=True)
class Launcher:
    """A running launcher on this machine."""

    pid: int
    grpc_url: str
    access: Access
    canary_secret: str
    heartbeats: Path


def record_launcher(folder: Path, endpoints: Endpoints, access: Access, canary_secret: str) -> None:
    """Record the server of this process for `find_launcher`, readable by this user only."""
    record = {
        "pid": os.getpid(),
        "grpc_port": endpoints.grpc_port,
        "grpc_url": endpoints.grpc_url,
        "access": access.record(),
        "canary_secret": canary_secret,
    }
    path = folder / _LAUNCHER
    path.touch(mode=0o600)
    path.write_text(json.dumps(record), encoding="utf-8")


def find_launcher(grpc_port: int) -> Launcher:
    """Return the running launcher that serves on `grpc_port`; raise NoServer if there is none."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LAUNCHER}"):
        # Another launcher has removed the folder, or it belongs to another user.
        with contextlib.suppress(OSError), path.with_name(_OWNER).open() as owner:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["grpc_port"] == grpc_port and not _is_free(owner):
                return Launcher(
                    int(record["pid"]),
                    record["grpc_url"],
                    Access.from_record(record["access"]),
                    record["canary_secret"],
                    path.with_name(HEARTBEATS),
                )
    raise NoServer(
        f"no `python -m server` of this machine serves on port {grpc_port}; give its "
        "--grpc-port, and run this as the user (in the container) that runs the server"
    )


def clear_shared_memory(prefix: str) -> None:
    """Remove the shared memory of a server that has ended."""
    for region in _SHM.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def hide_shared_memory(prefix: str) -> None:
    """Deny other users the shared memory of a server, which holds the speech of all streams.

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
        new.rename(folder / _OWNER)  # others never see it without its lock
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
