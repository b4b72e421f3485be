"""Paths of the checkout and types of fixtures that several suites share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer.testing import CliRunner, Result

if TYPE_CHECKING:
    from export.checkpoint import Checkpoint
    from export.streaming.reference import ReferenceResult
    from server.launch import Triton

PROJECT = Path(__file__).parents[2]

DEMO_CHECKPOINT = PROJECT / "checkpoints" / "demo"

Exported = Callable[[int], Path]
"""chunk_ms -> model repository of the random checkpoint."""

ADAPTED_CHUNK_MS, ADAPTER_RANK = 320, 2
"""The chunk of that repository which takes adapters, and their largest rank. Of whole files, the
checkpoint of the kind `streaming` takes them."""

OFFLINE_KINDS = ("streaming", "ctc", "rnnt", "tdt")
"""Kinds of checkpoints that can recognize whole utterances."""

OFFLINE_NAMES = {"streaming": "clinic_v1"}
"""Names that kinds are exported under; the others have none."""

OfflineCheckpoint = Callable[[str], Path]
"""kind -> folder of a random checkpoint."""

ExportedOffline = Callable[[str], Path]
"""kind -> model repository with `asr_offline`."""

Served = Callable[[Path], "Triton"]
"""Model repository -> a server that serves it until another repository is asked for."""

OfflineReference = Callable[["Checkpoint"], list["ReferenceResult"]]
"""checkpoint -> output of transformers for the recordings of this repository."""


def help_of(module: str) -> str:
    """Return the output of `python -m module --help`, in wide lines without colours."""
    return subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": "/usr/bin:/bin", "TERM": "dumb", "NO_COLOR": "1"},
    ).stdout


def run_export(*arguments: str) -> Result:
    """Run the command `python -m export` in this process, which has loaded torch already."""
    from export.cli import main

    command = typer.Typer()
    command.command()(main)
    return CliRunner().invoke(command, arguments)
