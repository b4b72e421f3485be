"""Ctrl-C during the imports of a command ends it with one line, as it does later.

A module that the command imports is replaced by one that waits for the signal.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import PROJECT

WAITS = """
import signal
print("importing", flush=True)
signal.pause()
"""
EARSHOT = ["-c", "from earshot_command import main; main()"]
LOADTEST = ["-m", "loadtest"]
COMMANDS = {
    "typer": [
        ["-m", "export", "checkpoints/demo"],
        [
            "-m",
            "export.adapters",
            "adapter",
            "--name",
            "clinic",
            "--checkpoint",
            "checkpoints/demo",
        ],
        ["-m", "export.heads", "head", "--name", "orders"],
        ["-m", "export.tensorrt", "checkpoints/demo"],
        [*LOADTEST, "capacity"],
        ["-m", "server", "--repository", "models"],
        ["-m", "training"],
        ["demo.py"],
        [*EARSHOT, "models"],
    ],
    "numpy": [
        *([*LOADTEST, name] for name in ("capacity", "overload", "faults", "endpointing")),
        ["-m", "server", "--repository", "models"],
        [*EARSHOT, "models"],
    ],
    "torch": [
        ["-m", "export", "checkpoints/demo"],
        ["-m", "training", "evaluate"],
    ],
}
"""For each module, commands that import it: `typer` first, the others in the midst."""


@pytest.mark.parametrize(
    ("module", "command"),
    [
        pytest.param(module, command, id=f"{' '.join(command[-2:])} in {module}")
        for module, commands in COMMANDS.items()
        for command in commands
    ],
)
def test_ctrl_c_in_an_import_is_one_line(module: str, command: list[str], tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text(WAITS)
    paths = [str(tmp_path), str(PROJECT / "client" / "src")]
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "importing\n"
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert errors.removeprefix("earshot: ") == "interrupted\n"
    assert running.returncode == 130
