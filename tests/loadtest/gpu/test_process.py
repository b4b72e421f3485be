"""Commands of a step end with their deadline, and report why they failed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from loadtest.gpu.process import StepFailed, run_module


def test_a_command_that_hangs_is_stopped_at_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sleeper.py").write_text(
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "print('begun', flush=True)\n"
        "child.wait()"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told = ""
    for seconds in (2, 20, 200):  # on a busy machine it takes long to begin
        with pytest.raises(StepFailed, match="sleeper did not end in time: ") as failed:
            run_module("sleeper", deadline_s=time.monotonic() + seconds)
        if told := str(failed.value).partition("in time: ")[2]:
            break
    assert told == "begun"
    child = Path("/proc") / (tmp_path / "child").read_text() / "stat"
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_command_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing.py").write_text("raise SystemExit('no such model')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(StepFailed, match=r"failing ended with 1: no such model"):
        run_module("failing", deadline_s=time.monotonic() + 300)
