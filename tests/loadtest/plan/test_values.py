"""The chart takes the values that a plan writes."""

from __future__ import annotations

from pathlib import Path

from tests.support.helm import render
from tests.support.plan_command import run
from tests.support.sample_results import gpu_result


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
    assert scaled["spec"]["triggers"][0]["metadata"]["threshold"] == "654"
    text = values.read_text()
    assert "# All replicas cost 20.00 per hour." in text
    assert "one NVIDIA H100" in text
