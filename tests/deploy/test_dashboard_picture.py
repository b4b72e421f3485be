"""The dashboard of a service under load, drawn from a real Prometheus (slow).

EARSHOT_PICTURE names the picture to write; without it, a temporary one.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import earshot
import numpy as np
import pytest
from earshot import AsyncClient, connect_async

from deploy.dashboard_picture import DASHBOARD, draw
from export.audio import SAMPLE_RATE_HZ
from export.checkpoint import load_checkpoint
from export.install import replacing
from export.options import ExportOptions, Serving
from export.recordings import load_recordings
from export.streaming.export import export_streaming
from tests.support.envoy import Envoy, envoy
from tests.support.launcher import UNLIMITED, Started, started
from tests.support.project import DEMO_CHECKPOINT
from tests.support.prometheus import prometheus

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.timeout(1800)]

USERS = 24
SLOTS = 16
PART_S = 50
PARTS = 4


def test_every_panel_is_drawn(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(DEMO_CHECKPOINT))
    folder = tmp_path / "demo"
    # Fewer than the users: one replica refuses some until the second comes.
    options = ExportOptions(checkpoint.name, folder, serving=Serving(max_streams=SLOTS))
    with replacing(folder) as new:
        export_streaming(checkpoint, options, new, lambda step: None)
    picture = Path(os.environ.get("EARSHOT_PICTURE", tmp_path / "dashboard.svg"))
    with (
        started(folder, *UNLIMITED) as one,
        started(folder, *UNLIMITED) as other,
        started(folder, *UNLIMITED) as third,
        envoy(tmp_path, [one.url]) as proxy,
    ):
        servers = (one, other, third)
        targets = {
            "earshot-replicas": [server.metrics_url.split("/")[2] for server in servers],
            "earshot-envoy": [proxy.metrics_url.split("/")[2]],
        }
        streams = f"scaling.streamsPerReplica={SLOTS},scaling.threshold={SLOTS - 2}"
        planned = ("--set", f"{streams},models.chunkMs=560")
        with prometheus(tmp_path, targets, *planned) as watching:
            asyncio.run(_work(proxy, servers))
            drawn = draw(watching.url, picture, PARTS * PART_S / 60, rate_s=5)
    titles = {panel["title"] for panel in json.loads(DASHBOARD.read_text())["panels"]}
    assert titles - set(drawn) == {"GPU"}, "all but what this machine lacks"
    assert picture.stat().st_size > 10_000


async def _work(proxy: Envoy, servers: Sequence[Started]) -> None:
    """Let users speak; in between, add two replicas, drain the first."""
    one, other, third = servers
    async with connect_async(proxy.url) as client:
        users = [asyncio.create_task(_speak(client, seed)) for seed in range(USERS)]
        await asyncio.sleep(PART_S)
        await asyncio.to_thread(proxy.route_to, [one.url, other.url])
        await asyncio.sleep(PART_S)
        await asyncio.to_thread(proxy.route_to, [one.url, other.url, third.url])
        one.launcher.send_signal(signal.SIGTERM)
        await asyncio.sleep(PART_S * (PARTS - 2))
        for user in users:
            user.cancel()
        await asyncio.gather(*users, return_exceptions=True)


async def _speak(client: AsyncClient, seed: int) -> None:
    """Hold one conversation after the other, in real time; begin within the first part."""
    chance = random.Random(seed)
    recordings = load_recordings()
    await asyncio.sleep(chance.uniform(0, PART_S))
    while True:
        samples = np.tile(chance.choice(recordings).samples, 2)
        try:
            async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
                for start in range(0, len(samples), SAMPLE_RATE_HZ // 5):
                    await asyncio.sleep(0.2)
                    await stream.send(samples[start : start + SAMPLE_RATE_HZ // 5])
        except earshot.ServerBusy:
            await asyncio.sleep(2)
