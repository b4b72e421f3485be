"""The commands and options in loadtest/README.md exist."""

from __future__ import annotations

import re

import pytest
import typer

from loadtest.cli import app
from tests.support.project import PROJECT

README = (PROJECT / "loadtest" / "README.md").read_text()
TYPED = re.findall(r"python -m loadtest ([a-z-]+)([^`\n|]*)", README)
COMMANDS = getattr(typer.main.get_command(app), "commands")  # noqa: B009, click's own name


def test_every_command_is_in_the_table() -> None:
    assert {name for name, _ in TYPED} == set(COMMANDS)


@pytest.mark.parametrize(("name", "rest"), TYPED)
def test_the_options_exist(name: str, rest: str) -> None:
    known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert set(re.findall(r"--[a-z-]+", rest)) <= known


def test_make_knows_the_targets_and_knobs() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    for target, knobs in re.findall(r"^make ([a-z-]+)(.*)$", README, flags=re.M):
        assert re.search(rf"^{target}:", makefile, flags=re.M)
        for knob in re.findall(r"([A-Z]+)=", knobs):
            assert f"$({knob})" in makefile or f",$({knob}))" in makefile, knob
