"""Text of 60 live streams through Envoy while a replica comes, one drains and one dies (slow).

EARSHOT_SPEECH names a folder with more recordings than those of this repository, EARSHOT_RECORD a
file to write what was seen to.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from earshot import Transcript, connect_async

from export.checkpoint import load_checkpoint
from export.install import replacing
from export.options import ExportOptions, Serving
from export.streaming.export import export_streaming
from loadtest.resuming.streams import PATIENT, Ended, play
from loadtest.resuming.words import compare
from server.errors import TritonDied
from server.launch import Triton, running
from tests.support.envoy import Envoy, envoy
from tests.support.long_speech import streams_of_speech
from tests.support.metrics import metric
from tests.support.parity_record import record
from tests.support.project import DEMO_CHECKPOINT
from tests.support.streaming_service import Service

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(1800)]

CHUNK_MS = 560
STREAMS = 60
STREAM_S = 40
ADD_AFTER_S, DRAIN_AFTER_S, KILL_AFTER_S = 8, 14, 26


@dataclass(frozen=True)
class Replicas:
    """What is done to the replicas while streams are live."""

    proxy: Envoy
    dying: Triton
    draining: Triton
    added: Triton

    async def act(self) -> dict[str, int]:
        """Add, drain and kill a replica, and return the streams of the killed one."""
        await asyncio.sleep(ADD_AFTER_S)
        everywhere = [server.grpc_url for server in (self.dying, self.draining, self.added)]
        await asyncio.to_thread(self.proxy.route_to, everywhere)
        await asyncio.sleep(DRAIN_AFTER_S - ADD_AFTER_S)
        seen = {"on_the_added": _live(self.added), "on_the_draining": _live(self.draining)}
        self.draining.process.terminate()
        await asyncio.sleep(KILL_AFTER_S - DRAIN_AFTER_S)
        seen["on_the_killed"] = _live(self.dying)
        os.kill(self.dying.process.pid, signal.SIGKILL)
        return seen


def test_sixty_streams_are_carried_on_with_next_to_all_their_words(
    tmp_path: Path, speech_folder: Path
) -> None:
    checkpoint = load_checkpoint(str(DEMO_CHECKPOINT))
    folder = tmp_path / "demo"
    serving = Serving(max_streams=256)
    options = ExportOptions(checkpoint.name, folder, chunk_ms=CHUNK_MS, serving=serving)
    with replacing(folder) as new:
        export_streaming(checkpoint, options, new, lambda step: None)
    live = streams_of_speech(speech_folder, STREAMS, STREAM_S)
    with (
        running(folder) as added,
        pytest.raises(TritonDied),
        running(folder) as dying,
        running(folder) as draining,
        envoy(tmp_path, [dying.grpc_url, draining.grpc_url]) as proxy,
    ):
        service = Service(added.grpc_url, added.metrics_url, checkpoint, CHUNK_MS)
        undisturbed = service.transcribe(live, at_once=8)
        replicas = Replicas(proxy, dying, draining, added)
        ended, seen = asyncio.run(_play(proxy.url, live, replicas))
        _judge(service, undisturbed, ended, seen)


def _live(server: Triton) -> int:
    return int(metric(server, "earshot_live_streams", "feature_extractor"))


async def _play(
    url: str, speech: list[np.ndarray], replicas: Replicas
) -> tuple[list[Ended], dict[str, int]]:
    """Stream all recordings at the same time, in real time, while things happen."""
    async with connect_async(url, timeouts=PATIENT) as client:
        playing = asyncio.gather(*(play(client, samples) for samples in speech))
        seen = await replicas.act()
        return await playing, seen


def _judge(
    service: Service, undisturbed: list[Transcript], ended: list[Ended], seen: dict[str, int]
) -> None:
    words = compare(undisturbed, [stream.transcript for stream in ended])
    gaps_ms = sorted(cut.gap_ms for stream in ended for cut in stream.resumptions)
    record(
        "live streams through Envoy while a replica comes, one drains and one is killed",
        f"{CHUNK_MS} ms",
        service.checkpoint,
        streams=len(ended),
        seconds=STREAM_S * len(ended),
        **seen,
        carried_on=len(gaps_ms),
        words=words.undisturbed,
        lost_words=words.missing,
        changed_words=words.changed,
        gap_ms={"median": gaps_ms[len(gaps_ms) // 2], "longest": gaps_ms[-1]},
    )
    assert len(gaps_ms) == seen["on_the_killed"] > 0  # no other stream has lost its replica
    assert seen["on_the_added"] <= 1  # the launcher's own
    assert list(words.faults(seams=len(gaps_ms))) == []
