"""The chart takes the values that a plan writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.support.helm import CHART, render
from tests.support.plan_command import run
from tests.support.sample_results import capacity_result, gpu_result, overload_result


def test_the_chart_takes_the_values_of_a_plan(tmp_path: Path) -> None:
    gpu_result().write(tmp_path / "run.json")
    values = tmp_path / "scaling.yaml"
    done = run(
        str(tmp_path / "run.json"),
        "--streams",
        "5000",
        "--price-per-hour",
        "2.5",
        "--values",
        str(values),
    )
    assert done.returncode == 0, done.stderr
    # 900 per GPU, 720 of them planned; Kubernetes acts 10 % above 654.
    [scaled] = render("--show-only", "templates/scaling.yaml", "--values", str(values))
    assert scaled["spec"]["maxReplicaCount"] == 8
    streams, fullness = (trigger["metadata"] for trigger in scaled["spec"]["triggers"])
    assert streams["threshold"] == "654"
    # Midway between planned and refused: 10 % above 0.81 is 0.89.
    assert fullness["threshold"] == "0.81"
    text = values.read_text()
    assert "# All replicas cost 20.00 per hour." in text
    assert "one NVIDIA H100" in text


def test_a_plan_of_admitted_streams_sets_the_share_of_the_server(tmp_path: Path) -> None:
    capacity, overload, values = (tmp_path / name for name in ("c.json", "o.json", "values.yaml"))
    capacity_result().write(capacity)
    overload_result().write(overload)
    done = run(
        *(str(capacity), "--streams", "1000", "--admission", str(overload)),
        *("--values", str(values)),
    )
    assert done.returncode == 0, done.stderr
    options = ("--values", str(CHART / "values-cpu.yaml"), "--values", str(values))
    objects = render("--show-only", "templates/replicas.yaml", *options)
    [deployment] = [thing for thing in objects if thing["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert "--chunk-share=0.15" in container["args"]


@pytest.mark.parametrize("values", ["values-cpu.yaml", "values-gpu-torch.yaml"])
def test_values_are_those_that_their_command_writes(values: str, tmp_path: Path) -> None:
    text = (CHART / values).read_text()
    [arguments] = re.findall(r"# +python -m loadtest plan (.*) --values FILE", text)
    written = tmp_path / "values.yaml"
    done = run(*arguments.split(), "--values", str(written))
    assert done.returncode == 0, done.stderr
    planned, given = yaml.safe_load(written.read_text()), yaml.safe_load(text)
    assert given["scaling"] == planned["scaling"]
    assert planned.get("server", {}).items() <= given["server"].items()
