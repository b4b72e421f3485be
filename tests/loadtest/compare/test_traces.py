"""The cost of traces on a real Triton."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.project import PROJECT, Exported


@pytest.mark.slow
@pytest.mark.triton
def test_a_server_with_traces_is_compared_with_one_without(exported: Exported) -> None:
    command = [sys.executable, "-m", "loadtest", "traces", "--repository", str(exported(320))]
    command += ["--every", "1", "--streams", "4", "--rounds", "1", "--seconds", "1", "--json"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    off, all_traced = json.loads(done.stdout)["settings"]
    assert (off["trace_every"], off["spans"], off["ratio"]) == (0, 0, 1.0)
    # A request, the ensemble, four stages and their computation; some of the warm-up, too.
    assert all_traced["spans"] > 10 * all_traced["chunks"] > 0
