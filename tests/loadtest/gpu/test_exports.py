"""Models are exported once, and a failed export is not tried again in the same call."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loadtest.gpu import exports
from loadtest.gpu.exports import Exports
from loadtest.gpu.plan import WHOLE, Model
from loadtest.gpu.process import StepFailed
from tests.support.sample_report_options import options

MODEL = Model("demo", 560, "fp16")


def exporting(calls: list[tuple[str, ...]], error: str = "") -> Callable[..., str]:
    def run_module(*arguments: str, **_: object) -> str:
        calls.append(arguments)
        if error:
            raise StepFailed(error)
        Path(arguments[arguments.index("--repository") + 1]).mkdir()
        return ""

    return run_module


def test_steps_at_the_same_time_share_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(exports, "run_module", exporting(calls))
    models = Exports(options(tmp_path, max_batch=48))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: models.repository(MODEL, time.monotonic()), range(8)))
    assert set(found) == {tmp_path / "demo_560ms_fp16"}
    [arguments] = calls
    assert arguments[arguments.index("--max-batch-size") + 1] == "48"


def test_an_engine_for_each_process_is_another_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(exports, "run_module", exporting(calls))
    chosen = options(tmp_path, own_engines=True)
    models = Exports(chosen)
    own = models.repository(chosen.model("demo", 560), time.monotonic())
    assert own == tmp_path / "demo_560ms_fp16_own"
    assert models.repository(MODEL, time.monotonic()) != own
    assert ["--own-engines" in arguments for arguments in calls] == [True, False]
    reference = models.reference(chosen.model("demo", 560), time.monotonic())
    assert reference == models.reference(MODEL, time.monotonic())


def test_a_failed_export_fails_every_step_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(exports, "run_module", exporting(calls, "out of memory"))
    models = Exports(options(tmp_path))
    for _ in range(2):
        with pytest.raises(StepFailed, match="out of memory"):
            models.repository(MODEL, time.monotonic())
    assert len(calls) == 1
    with pytest.raises(StepFailed):
        models.reference(MODEL, time.monotonic())
    assert len(calls) == 2


def test_whole_files_are_exported_without_what_is_for_live_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(exports, "run_module", exporting(calls))
    models = Exports(options(tmp_path))
    for size in ("demo", "0.6b"):
        models.repository(Model(size, WHOLE, "fp16"), time.monotonic())
    models.reference(Model("demo", WHOLE, "fp16"), time.monotonic())
    assert [arguments[0] for arguments in calls] == ["export", "export.random_model", "export"]
    for arguments in calls:
        assert arguments[arguments.index("--mode") + 1] == "offline"
        assert not {"--layout", "--max-streams", "--chunk-ms"} & set(arguments)
    assert "--runtime" not in calls[-1]
