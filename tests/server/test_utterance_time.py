"""The measurement of an engine for whole files: its order, and what an ended one leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server import utterance_time
from server.utterance_time import main, shapes
from tests.support.project import PROJECT, ExportedOffline


def test_the_largest_runs_come_first_then_single_utterances() -> None:
    lengths = (19_200, 244_480, 480_000)
    most: dict[int, int] = dict(zip(lengths, (256, 128, 64), strict=True))
    order = shapes(lengths, most.__getitem__)
    assert order[:3] == [(128, 244_480), (256, 19_200), (64, 480_000)]
    assert [rows for rows, _ in order[3:6]] == [1, 1, 1]
    assert sorted(order) == sorted(
        (rows, length)
        for length in lengths
        for rows in (1, 8, 32, 64, 128, 256)
        if rows <= most[length]
    )


def test_what_was_measured_before_the_end_is_kept(
    exported_offline_torch: ExportedOffline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    measured: list[dict[str, Any]] = []

    def measure(*arguments: Any) -> dict[str, Any]:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(time(*arguments))
        return measured[-1]

    time = utterance_time._time  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(utterance_time, "_time", measure)
    report = tmp_path / "report.json"
    with pytest.raises(KeyboardInterrupt):
        main(
            exported_offline_torch("rnnt"),
            speech=PROJECT / "recordings",
            runs=1,
            max_s=3.0,
            output=report,
        )
    kept = json.loads(report.read_text())
    assert kept["shapes"] == measured
    assert kept["shapes_in_all"] > 2
    assert kept["shapes"][0]["tokens_per_audio_s"] > 0
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]
    said = capfd.readouterr().err
    assert "opening recognizer_offline: program" in said
    assert f"2 of {kept['shapes_in_all']}: 1 rows of 1.92 s" in said
