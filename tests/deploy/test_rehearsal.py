"""`deploy/rehearse.sh` ends with 0 on a service that is right (slow).

There is no cluster here. Stand-ins for helm and kubectl do to real servers behind the real Envoy
what a cluster does to pods.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from export.checkpoint import load_checkpoint
from export.install import replacing
from export.options import ExportOptions, Serving
from export.streaming.export import export_streaming
from loadtest.result.document import CapacityResult
from loadtest.resuming.document import ResumingResult
from server.errors import TritonDied
from server.launch import Triton, running
from tests.support.envoy import Envoy, envoy
from tests.support.launcher import wait_for
from tests.support.project import DEMO_CHECKPOINT, PROJECT

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(900)]

PORT = 18001
"""To which the script forwards."""
STREAMS, HOLD_S = 8, 90
KUBECTL = """#!/bin/bash
cd "$CLUSTER"
case "$*" in
  *port-forward*) exec sleep 600 ;;
  *"rollout restart"*) touch restart ;;
  *"rollout status"*) until [[ ! -e restart || -e restarted ]]; do sleep 0.2; done ;;
  *"get pods"*) echo pod/other; echo pod/newest ;;
  *"delete pod/newest"*) kill -9 "$(cat newest)" ;;
esac
"""


@dataclass(frozen=True)
class Cluster:
    """What the stand-ins act on."""

    folder: Path
    proxy: Envoy
    old: list[Triton]
    new: list[Triton]

    def roll_out(self) -> None:
        """Replace the old replicas when the script asks for it."""
        wait_for((self.folder / "restart").exists, timeout_s=300)
        new = [server.grpc_url for server in self.new]
        self.proxy.route_to([*(server.grpc_url for server in self.old), *new])
        for url in new:
            self.proxy.wait_for_health(url, healthy=True)
        for server in self.old:
            server.process.terminate()
        (self.folder / "restarted").touch()
        for server in self.old:
            server.process.wait(60)
        self.proxy.route_to(new)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    checkpoint = load_checkpoint(str(DEMO_CHECKPOINT))
    models = tmp_path / "demo"
    options = ExportOptions(checkpoint.name, models, chunk_ms=560, serving=Serving(max_streams=64))
    with replacing(models) as new:
        export_streaming(checkpoint, options, new, lambda step: None)
    _write_stand_ins(tmp_path / "bin")
    with contextlib.ExitStack() as stack:
        replicas: list[Triton] = []
        for _ in range(4):
            stack.enter_context(contextlib.suppress(TritonDied))
            replicas.append(stack.enter_context(running(models)))
        old, new_ones = replicas[:2], replicas[2:]
        urls = [server.grpc_url for server in old]
        proxy = stack.enter_context(envoy(tmp_path, urls, port=PORT))
        (tmp_path / "newest").write_text(str(new_ones[-1].process.pid))
        yield Cluster(tmp_path, proxy, old, new_ones)


def _write_stand_ins(folder: Path) -> None:
    folder.mkdir()
    for name, script in (("kubectl", KUBECTL), ("helm", "#!/bin/sh\n")):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)


def test_the_rehearsal_of_a_service_that_is_right_ends_with_0(cluster: Cluster) -> None:
    rollout = threading.Thread(target=cluster.roll_out)
    rollout.start()
    done = subprocess.run(
        [PROJECT / "deploy" / "rehearse.sh", "any", "values.yaml", str(STREAMS), str(HOLD_S)],
        env=os.environ
        | {
            "CLUSTER": str(cluster.folder),
            "PATH": f"{cluster.folder / 'bin'}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    rollout.join()
    assert done.returncode == 0, done.stdout + done.stderr
    held = CapacityResult.from_json(PROJECT / "build" / "rehearsal_rollout.json")
    assert (held.verdict, held.streams) == ("pass", STREAMS)
    killed = ResumingResult.from_json(PROJECT / "build" / "rehearsal_kill.json")
    assert killed.passes
    assert killed.command[-3:] == ["pod/newest", "--grace-period=0", "--force"]
