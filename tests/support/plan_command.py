"""Run the planner as a user does."""

from __future__ import annotations

import subprocess
import sys

from tests.support.project import PROJECT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m loadtest plan`, and return its exit code and output."""
    return subprocess.run(
        [sys.executable, "-m", "loadtest", "plan", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
        env={"COLUMNS": "200", "PATH": "/usr/bin:/bin", "TERM": "dumb"},
    )
