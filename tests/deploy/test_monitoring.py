"""Rules and dashboard, checked by promtool and by a Prometheus that scrapes a server under load."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import earshot
import numpy as np
import pytest
import yaml

from tests.support.envoy import envoy
from tests.support.fake_recognizer import PATIENT
from tests.support.helm import CHART
from tests.support.launcher import UNLIMITED, started, wait_for
from tests.support.project import PROJECT, Exported
from tests.support.prometheus import Prometheus, program, prometheus, write_rules

DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
RULES = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
TESTS = PROJECT / "tests" / "deploy" / "rules" / "alerts.test.yaml"
PLANNED = ("--set", "scaling.streamsPerReplica=100,scaling.threshold=80,models.chunkMs=560")
CHUNK_MS = 320
NEEDS_GPU = {"GPU"}


def test_every_alert_fires_on_its_fault_and_on_nothing_else(tmp_path: Path) -> None:
    rules, planned = write_rules(tmp_path, *PLANNED)
    rules.rename(tmp_path / "rules.yaml")
    planned.rename(tmp_path / "planned.yaml")
    shutil.copy(TESTS, tmp_path)
    _promtool("check", "rules", str(tmp_path / "rules.yaml"), str(tmp_path / "planned.yaml"))
    _promtool("test", "rules", str(tmp_path / TESTS.name))
    assert {alert["alert"] for alert in ALERTS} == set(re.findall(r"Earshot\w+", TESTS.read_text()))


def _promtool(*arguments: str) -> None:
    done = subprocess.run(
        [program("promtool"), *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_has_a_runbook(alert: dict[str, Any]) -> None:
    path, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert anchor == alert["alert"].lower()
    assert f"\n## {alert['alert']}\n" in (PROJECT / path).read_text()


@pytest.fixture(scope="module")
def watched(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a server under load, and Envoy before it."""
    folder = tmp_path_factory.mktemp("watched")
    with (
        started(exported(CHUNK_MS), *UNLIMITED) as server,
        envoy(folder, [server.url]) as proxy,
        prometheus(
            folder,
            {
                "earshot-replicas": [_host(server.metrics_url)],
                "earshot-envoy": [_host(proxy.metrics_url)],
            },
            *PLANNED,
        ) as watching,
        _load(proxy.url),
    ):
        yield watching


@contextmanager
def _load(url: str) -> Generator[None]:
    """Stream noise, one stream after the other, for the length of the block."""
    stopping = threading.Event()
    piece = np.random.default_rng(0).uniform(-0.1, 0.1, 16000).astype(np.float32)

    def stream() -> None:
        with earshot.connect(url, timeouts=PATIENT) as client:
            while not stopping.is_set():
                with client.stream(sample_rate_hz=16000) as stream:
                    for _ in range(4):
                        stream.send(piece)
                        stopping.wait(0.2)

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _host(url: str) -> str:
    return url.split("/")[2]


@pytest.mark.triton
@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_every_query_of_a_panel_returns_data(watched: Prometheus, panel: dict[str, Any]) -> None:
    if panel["title"] in NEEDS_GPU:
        pytest.skip("there is no GPU here")
    for target in panel["targets"]:
        query = target["expr"].replace("$__rate_interval", "5s")
        wait_for(lambda query=query: _has_data(watched, query))


def _has_data(watched: Prometheus, query: str) -> bool:
    return any(math.isfinite(float(sample["value"][1])) for sample in watched.query(query))
