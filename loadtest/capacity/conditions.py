"""The conditions of a run: model, machine, versions, command."""

from __future__ import annotations

import contextlib
import json
import platform
import socket
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from earshot import ServerInfo

from loadtest.audio.recordings import SAMPLE_RATE_HZ, Clip
from loadtest.options import LoadOptions
from loadtest.result.document import Conditions
from loadtest.result.machine import cpu_model, now, this_command, usable_cores

GPU_RUNTIMES = ("torch", "tensorrt", "tensorrt-rtx")
"""Runtimes that use a GPU if there is one."""


def conditions(
    info: ServerInfo, options: LoadOptions, clips: Sequence[Clip], gpus: int
) -> Conditions:
    """Return the conditions of a run.

    Args:
        info: The server's description of itself.
        options: Options of the run.
        clips: The recordings that are sent.
        gpus: Number of GPUs that the server reports.
    """
    local = is_local(info.url)
    # A server on the CPU reports the machine's GPUs, too; one on a GPU may be unable to read them.
    on_gpus = info.runtime in GPU_RUNTIMES
    names = _gpu_names() if local and on_gpus else []
    seconds = sum(len(clip.samples) for clip in clips) / SAMPLE_RATE_HZ
    return Conditions(
        checkpoint=info.model,
        runtime=info.runtime,
        precision=info.precision,
        chunk_ms=info.chunk_ms,
        parameters=_parameters(options.repository, info.ensemble),
        cpu_model=cpu_model() if local else "unknown",
        cpu_cores=usable_cores() if local else 0,
        gpu_model=", ".join(sorted(set(names))) or None,
        gpu_count=(gpus or len(names)) if on_gpus else 0,
        server_location="same machine" if local else "remote",
        generator_processes=options.processes + options.workers,
        versions=_versions(info, local),
        speech=f"{options.speech.name} ({len(clips)} files, {seconds:.0f} s)",
        command=this_command(),
        started_at=now(),
    )


def is_local(url: str) -> bool:
    """Return `True` if the server at `url` is on this machine."""
    host = url.rpartition(":")[0].strip("[]")
    with contextlib.suppress(OSError):
        for family, kind, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            # Only an address of this machine can be bound.
            with contextlib.suppress(OSError), socket.socket(family, kind) as probe:
                probe.bind(address)
                return True
    return False


def _gpu_names() -> list[str]:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        names = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return names.stdout.splitlines()
    return []


def _parameters(repository: Path | None, ensemble: str) -> int | None:
    if repository is None:
        return None
    with contextlib.suppress(OSError, ValueError, KeyError):
        manifest: Any = json.loads((repository / ensemble / "1" / "manifest.json").read_text())
        return int(manifest["checkpoint"]["parameters"])
    return None


def _versions(info: ServerInfo, local: bool) -> dict[str, str]:
    server, _, server_version = info.server.partition(" ")
    versions = {server: server_version, "python": platform.python_version()}
    # The packages installed here say nothing about a remote server.
    packages = {"earshot": "earshot-client", "locust": "locust"}
    if local and info.runtime in ("onnxruntime", "torch", "tensorrt-rtx"):
        packages[info.runtime] = info.runtime
    for name, package in packages.items():
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(package)
    return versions
