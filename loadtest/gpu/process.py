"""Run commands of this project with a deadline, and end everything that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

GOODBYE_S = 20.0
"""Time for a server to unload its models."""


class StepFailed(Exception):
    """A command of a step ended with an error, or ran out of time."""


def run_module(
    module: str,
    *arguments: str,
    deadline_s: float,
    accepted: Sequence[int] = (0,),
    env: Mapping[str, str] | None = None,
) -> str:
    """Run `python -m module` and return its output.

    Args:
        module: Name of the module.
        arguments: Arguments of the command.
        deadline_s: Monotonic time at which to end the command.
        accepted: Exit codes that do not count as failures.
        env: Environment of the command; `None`: that of this process.

    Raises:
        StepFailed: The command failed or did not end in time; the message has the end of its
            output.
    """
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=env,
    ) as process:
        try:
            output, _ = process.communicate(timeout=max(1.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise StepFailed(f"{module} did not end in time: {end_of(error.output)}") from None
        finally:
            _end_group(process)
    if process.returncode not in accepted:
        raise StepFailed(f"{' '.join(command)} ended with {process.returncode}: {end_of(output)}")
    return output


def end_of(output: str | bytes | None) -> str:
    """Return the last 3,000 characters of a command's output."""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output or ""
    return text[-3000:].strip()


def _end_group(leader: subprocess.Popen[str]) -> None:
    """End the processes that a command has left: a server would block the GPU for the next step."""
    give_up_s = time.monotonic() + GOODBYE_S
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGTERM)
        while time.monotonic() < give_up_s:
            leader.poll()
            os.killpg(leader.pid, 0)
            time.sleep(0.1)
        os.killpg(leader.pid, signal.SIGKILL)
