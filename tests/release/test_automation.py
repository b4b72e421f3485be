"""What runs by itself, hosted CI and pre-commit, calls commands that exist here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from tests.support.project import PROJECT

WORKFLOW = PROJECT / ".github/workflows/ci.yml"


def test_the_workflow_is_valid() -> None:
    check = Path(sys.executable).with_name("check-jsonschema")
    for schema in ("vendor.github-workflows", "custom.github-workflows-require-timeout"):
        subprocess.run([check, "--builtin-schema", schema, WORKFLOW], check=True)


def test_the_workflow_calls_the_script_of_ci() -> None:
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert os.access(PROJECT / ".ci/run", os.X_OK)


def test_pre_commit_calls_targets_of_make() -> None:
    config = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())
    [hook] = [hook for repo in config["repos"] for hook in repo["hooks"]]
    make, *targets = hook["entry"].split()
    assert (make, targets) == ("make", ["lint", "types"])
    makefile = (PROJECT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    headings = re.findall(r"^##? .*$", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "# Changelog"
    assert headings[1] == "## [Unreleased]"
    for heading in headings[2:]:
        assert re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", heading), heading
    kinds = set(re.findall(r"^### (.*)$", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
