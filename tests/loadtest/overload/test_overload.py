"""More users than a server admits, behind a token."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtest.overload.document import OverloadResult
from loadtest.overload.measure import _watched  # pyright: ignore[reportPrivateUsage]
from loadtest.overload.users import Tally
from server.access import Access
from server.backends.earshot.earshot_runtime.limit import write_limit
from server.launch import running
from tests.support.project import PROJECT, Exported

ADMITTED = 3
TOKEN = "a-token-of-the-tests"


def test_seconds_in_which_the_process_was_held_up_are_counted() -> None:
    """Else what was refused in the last ones would not be."""
    tally, began_s = Tally(live=2), time.monotonic()

    async def work() -> None:
        time.sleep(1.1)  # holds up the event loop

    live = asyncio.run(_watched(tally, work(), began_s))
    assert len(live) >= 2
    assert set(live) == {2}


@pytest.mark.triton
def test_those_who_are_refused_come_back_and_the_others_are_served(
    exported: Exported, tmp_path: Path
) -> None:
    output = tmp_path / "overload.json"
    with running(exported(320), access=Access(token=TOKEN)) as triton:
        command = [sys.executable, "-m", "loadtest", "overload", "--users", "8"]
        command += ["--url", triton.grpc_url, "--arrival-s", "1", "--hold-s", "6"]
        command += ["--speech", str(PROJECT / "recordings" / "jfk"), "--output", str(output)]
        stranger = _run(command)
        assert stranger.returncode == 2
        assert "token" in stranger.stderr
        write_limit(triton.heartbeats, "feature_extractor", ADMITTED)
        done = _run(command, EARSHOT_TOKEN=TOKEN)
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout.startswith("PASS" if done.returncode == 0 else "FAIL")
    result = OverloadResult.from_json(output)
    assert max(second.live for second in result.seconds) == ADMITTED
    assert sum(second.refused for second in result.seconds) == result.refusal_latency.count > 5
    assert result.chunk_latency.count > 6 / 0.32
    assert result.failures == {}
    assert result.transcripts_compared > 0
    assert result.transcripts_different == 0


def _run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=PROJECT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
