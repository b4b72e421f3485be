"""The table of the engines that the tests have built, at the end of a run.

A test hands over what `build_engine` returns as a property of its report, which also reaches the
terminal from the processes of `pytest --numprocesses`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # it loads TensorRT, which a run of other tests does not need
    from export.tensorrt.engine import EngineFacts

RecordEngine = Callable[[str, str, "EngineFacts"], None]
_PROPERTY = "engine"
_COLUMNS = ("graph", "precision", "layers", "seconds", "plan_bytes")


def recorder(request: pytest.FixtureRequest) -> RecordEngine:
    """Return what adds a row to the table: `(graph, precision, facts)`."""

    def record(graph: str, precision: str, facts: EngineFacts) -> None:
        row = {"graph": graph, "precision": precision, **asdict(facts)}
        entry = {column: row[column] for column in _COLUMNS}
        request.node.user_properties.append((_PROPERTY, entry))

    return record


def print_engines(reporter: pytest.TerminalReporter) -> None:
    """Print the table, if an engine was built."""
    reports: list[Any] = reporter.stats.get("passed", [])
    rows: list[dict[str, Any]] = [
        value
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == _PROPERTY
    ]
    if not rows:
        return
    reporter.write_sep("=", "engines built by TensorRT for RTX")
    reporter.write_line(f"{'graph':44}{'precision':>10}{'layers':>8}{'seconds':>9}{'bytes':>12}")
    for row in sorted(rows, key=lambda row: (row["graph"], row["precision"])):
        reporter.write_line(
            f"{row['graph']:44}{row['precision']:>10}{row['layers']:>8,}"
            f"{row['seconds']:>9.1f}{row['plan_bytes']:>12,}"
        )
