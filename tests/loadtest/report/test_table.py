"""The README's tables are those of the committed results."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.report.table import NOTHING_YET, tables, with_tables
from loadtest.result.baseline import BaselineResult
from loadtest.result.files import RESULTS
from tests.support.project import PROJECT
from tests.support.sample_results import capacity_result, comparison, gpu_result, invalid_result


def write_baseline(path: Path) -> None:
    result = BaselineResult(1, "baseline", comparison(), "AMD EPYC", 2, {}, "c", "2026-11-22")
    result.write(path)


def test_the_readme_shows_the_committed_results() -> None:
    readme = (PROJECT / "README.md").read_text()
    expected = with_tables(readme, tables(list(RESULTS.glob("*.json"))))
    assert readme == expected, "run: python -m loadtest table --update README.md"


def test_a_row_for_each_capacity_result_and_none_for_other_documents(tmp_path: Path) -> None:
    capacity_result().write(tmp_path / "cpu.json")
    gpu_result().write(tmp_path / "gpu.json")
    (tmp_path / "overhead.json").write_text('{"what": "something else"}')
    (tmp_path / "list.json").write_text("[]")
    header, rule, cpu, gpu = tables(list(tmp_path.glob("*.json")))["capacity"].splitlines()
    assert header.count("|") == rule.count("|") == cpu.count("|") == gpu.count("|")
    assert cpu == (
        "| demo, onnxruntime fp32 | 560 ms | 2 cores of AMD EPYC | 208 | 104 per core "
        "| 158 / 473 ms | 520 ms | 60 s | [cpu](loadtest/results/cpu.json) |"
    )
    assert "| 1 × NVIDIA H100, 2 cores of AMD EPYC | 900 | 900 per GPU |" in gpu


def test_what_did_not_pass_claims_no_streams(tmp_path: Path) -> None:
    invalid_result().write(tmp_path / "a.json")
    replace(capacity_result(), verdict="fail", streams=0).write(tmp_path / "b.json")
    *_, invalid, failed = tables([tmp_path / "a.json", tmp_path / "b.json"])["capacity"].split("\n")
    assert "| INVALID | - |" in invalid
    assert "| none passed | - |" in failed


def test_the_baseline_has_a_row_per_set(tmp_path: Path) -> None:
    write_baseline(tmp_path / "baseline.json")
    lines = tables([tmp_path / "baseline.json"])["baseline"].splitlines()
    assert lines[0] == "|  | Earshot: demo, 560 ms chunks | PocketSphinx 5.1.1, en-us |"
    assert lines[2] == "| WER, librispeech_test_other (50 files, 350 s) | 84.0 % | 59.0 % |"
    assert lines[-1] == "| streams per core of AMD EPYC | 130.7 | 1.8 |"


def test_without_results_it_says_so() -> None:
    assert tables([]) == {"capacity": NOTHING_YET, "baseline": NOTHING_YET}


def test_tables_go_between_their_comments_and_nowhere_else(tmp_path: Path) -> None:
    page = "a\n<!-- table: capacity -->old\n<!-- end of table: capacity -->\nb"
    changed = with_tables(page, {"capacity": r"new \1"})
    assert changed == (
        "a\n<!-- table: capacity -->\n\nnew \\1\n\n<!-- end of table: capacity -->\nb"
    )
    assert with_tables(changed, {"capacity": r"new \1"}) == changed
    with pytest.raises(ValueError, match="expected a line <!-- table: baseline -->"):
        with_tables(page, {"baseline": "x"})


def test_the_command_updates_a_page(tmp_path: Path) -> None:
    capacity_result().write(tmp_path / "cpu.json")
    page = tmp_path / "PAGE.md"
    markers = "<!-- table: {0} --><!-- end of table: {0} -->\n"
    page.write_text(markers.format("capacity") + markers.format("baseline"))
    command = [sys.executable, "-m", "loadtest", "table", str(tmp_path / "cpu.json")]
    done = subprocess.run(
        [*command, "--update", str(page)], cwd=PROJECT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.strip()
        == page.read_text().replace("\n<!-- table: b", "\n\n<!-- table: b").strip()
    )
    assert "| 208 |" in page.read_text()
    assert NOTHING_YET in page.read_text()
