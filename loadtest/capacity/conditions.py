"""What the figures of a run hold for: model, machine, versions, command."""

from __future__ import annotations

import contextlib
import json
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from earshot import ServerInfo

from loadtest.machine import cpu_model, now, this_command, usable_cores
from loadtest.result import Conditions
from loadtest.speech import SAMPLE_RATE_HZ, Recording

GPU_RUNTIMES = ("torch", "tensorrt")
"""Those that serve on a GPU where there is one."""


def conditions(
    info: ServerInfo,
    repository: Path | None,
    speech: Path,
    recordings: list[Recording],
    gpus: int,
    processes: int,
) -> Conditions:
    """Conditions of a run against the server behind ``info``.

    Args:
        repository: what it serves, where that is known.
        gpus: how many GPUs it reports.
    """
    local = is_local(info.url)
    # A server on the CPU reports the machine's GPUs too; one on a GPU may lack what reads them.
    on_gpus = info.runtime in GPU_RUNTIMES
    names = _gpu_names() if local and on_gpus else []
    seconds = sum(len(recording.samples) for recording in recordings) / SAMPLE_RATE_HZ
    return Conditions(
        checkpoint=info.model,
        runtime=info.runtime,
        precision=info.precision,
        chunk_ms=info.chunk_ms,
        parameters=_parameters(repository, info.ensemble),
        cpu_model=cpu_model() if local else "unknown",
        cpu_cores=usable_cores() if local else 0,
        gpu_model=", ".join(sorted(set(names))) or None,
        gpu_count=(gpus or len(names)) if on_gpus else 0,
        server_location="same machine" if local else "remote",
        generator_processes=processes,
        versions=_versions(info, local),
        speech=f"{speech.name} ({len(recordings)} files, {seconds:.0f} s)",
        command=this_command(),
        started_at=now(),
    )


def is_local(url: str) -> bool:
    """Whether the server at ``url`` is on this machine."""
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
    # What is installed here tells nothing of a server elsewhere.
    packages = {"earshot": "earshot-client", "locust": "locust"}
    if local and info.runtime == "onnxruntime":
        packages["onnxruntime"] = "onnxruntime"
    for name, package in packages.items():
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(package)
    return versions
