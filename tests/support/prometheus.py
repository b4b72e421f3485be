"""The real Prometheus with the chart's rules, scraping servers and Envoy."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.helm import render
from tests.support.launcher import wait_for
from tests.support.proxies import free_port

_LABELS = {"namespace": "default"}
"""What the Prometheus operator adds: the namespace, for `helm template` this one."""


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`; skip the test if it is missing."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install prometheus")
    return path


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def query(self, expression: str) -> list[Any]:
        """Return the samples of an expression now."""
        return self._ask("query", query=expression)

    def _ask(self, api: str, **parameters: str) -> list[Any]:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{api}?{query}", timeout=60) as answer:
            return json.load(answer)["data"]["result"]


def write_rules(folder: Path, *options: str) -> list[Path]:
    """Write the rules that the chart deploys with `options` of helm, one file for each object."""
    paths: list[Path] = []
    for rule in render("--show-only", "templates/rules.yaml", *options):
        paths.append(folder / f"{rule['metadata']['name']}.yaml")
        paths[-1].write_text(yaml.safe_dump(rule["spec"]))
    return paths


@contextmanager
def prometheus(
    folder: Path, targets: Mapping[str, Sequence[str]], *options: str, interval_s: int = 1
) -> Iterator[Prometheus]:
    """Start Prometheus with the chart's rules, scraping the targets (`host:port`) of each job."""
    config = {
        "global": {
            "scrape_interval": f"{interval_s}s",
            "scrape_timeout": f"{interval_s}s",
            "evaluation_interval": f"{interval_s}s",
        },
        "rule_files": [str(path) for path in write_rules(folder, *options)],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(hosts), "labels": _LABELS}]}
            for job, hosts in targets.items()
        ],
    }
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config))
    port, log = free_port(), folder / "prometheus.log"
    command = [program("prometheus"), f"--config.file={path}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as it:
        running = Prometheus(f"http://127.0.0.1:{port}")
        try:
            wait_for(lambda: it.poll() is not None or _is_ready(running.url))
            assert it.poll() is None, log.read_text()[-2000:]
            yield running
        finally:
            it.kill()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=60) as answer:
            return answer.status == 200
    except OSError:
        return False
