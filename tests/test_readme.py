"""The commands and paths that the pages name exist, and the short commands run."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from earshot._cli import app
from typer.testing import CliRunner

from tests.support.fake_recognizer import PARAMETERS
from tests.support.fake_triton import OFFLINE, FakeTriton, fake_triton
from tests.support.late_text import without_lag
from tests.support.project import PROJECT, help_of
from tests.support.spoken_numbers import RATE_HZ, audio, recognize_numbers, script

README = (PROJECT / "README.md").read_text()
CLIENT_README = (PROJECT / "client" / "README.md").read_text()
PAGES = [
    *(PROJECT / folder / "README.md" for folder in (".", "client", "deploy", "loadtest")),
    PROJECT / "CONTRIBUTING.md",
    *sorted((PROJECT / "docs").glob("*.md")),
]


def make_targets(text: str) -> set[str]:
    commands = re.findall(r"\bmake ((?:[a-z][a-z-]*\s?)+)", re.sub(r"[#|].*", "", text))
    return {target for command in commands for target in command.split()}


def shell_lines(text: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.S | re.M)
    plain = [block for language, block in blocks if not language]
    return [line.split("#")[0].strip() for block in plain for line in block.splitlines()]


def test_every_make_target_exists() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    targets = make_targets("\n".join(f"{line}\n" for line in shell_lines(README)))
    targets |= set(re.findall(r"`(?:\w+=\w+ )?make ([a-z-]+)`", README))
    assert {
        "demo",
        "test",
        "serve",
        "parity",
        "overhead",
        "capacity",
        "loadtest",
        "selftest",
    } <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.M), f"no `make {target}`"


def test_bare_make_prints_help() -> None:
    printed = subprocess.run(["make"], cwd=PROJECT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "export", "serve", "parity"):
        assert re.search(rf"^{target} ", printed.stdout, flags=re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link, anchor in re.findall(r"\]\(([^):#]*)(?:#([^)]+))?\)", page.read_text()):
        target = page.parent / link if link else page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.M) if anchor else []
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}


def test_every_recording_that_is_named_exists() -> None:
    files = re.findall(r"\b(?:recordings|client)/[\w./-]+\.\w+", README)
    assert files
    for path in files:
        assert (PROJECT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_knob_of_make_exists(page: Path) -> None:
    makefile = (PROJECT / "Makefile").read_text()
    for line in shell_lines(page.read_text()):
        if line.startswith("make "):
            for target in make_targets(line):
                assert re.search(rf"^{target}:", makefile, flags=re.M), line
            for knob in re.findall(r"\b([A-Z_0-9]+)=", line):
                assert re.search(rf"\$\((?:if |or |addprefix --set ,\$\()?{knob}\b", makefile), line


@pytest.mark.parametrize("module", ["export", "server", "loadtest"])
def test_options_named_in_the_readme_exist(module: str) -> None:
    text = " ".join(help_of(module).split())
    for line in shell_lines(README):
        if line.startswith(f"python -m {module} "):
            for option in re.findall(r"--[a-z-]+", line):
                assert option in text, (module, option)
    assert "Usage" in text


@pytest.mark.parametrize("text", [README, CLIENT_README], ids=["README", "client/README"])
def test_python_examples_use_names_that_exist(text: str) -> None:
    import earshot

    examples = "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.S))
    assert examples
    for name in re.findall(r"\bearshot\.(\w+)", examples):
        assert hasattr(earshot, name), name
    for owner, names in {"client": earshot.Client, "stream": earshot.Stream}.items():
        for method in re.findall(rf"(?<!\.)\b{owner}\.(\w+)\(", examples):
            assert hasattr(names, method), f"{owner}.{method}"


COMMANDS = sorted(
    {
        command
        for page in PAGES
        for command in re.findall(r"python -m ([a-z_.]+(?: [a-z][a-z-]*\b)?)", page.read_text())
    }
)
# Runs commands one after the other: what they import takes much longer than their help.
PRINT_HELP = """
import runpy, sys
for command in sys.argv[1:]:
    sys.argv = [*command.split(), "--help"]
    print(f"=== {command}", flush=True)
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.mark.parametrize("package", sorted({re.split(r"[. ]", name)[0] for name in COMMANDS}))
def test_every_command_that_is_named_has_help(package: str) -> None:
    commands = [name for name in COMMANDS if re.split(r"[. ]", name)[0] == package]
    done = subprocess.run(
        [sys.executable, "-c", PRINT_HELP, *commands], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    helps = done.stdout.split("=== ")[1:]
    assert [text.splitlines()[0] for text in helps] == commands
    assert all("usage" in text.lower() for text in helps)


def lines_of(command: str) -> list[str]:
    """The lines of all pages that call `command`, without the description beside them."""
    lines = [line for page in PAGES for line in shell_lines(page.read_text())]
    calls = [line.removeprefix(".venv/bin/").split("  ")[0] for line in lines]
    return sorted({call for call in calls if call.startswith(f"{command} ")})


@pytest.mark.parametrize("line", lines_of("make"))
def test_every_make_line_is_understood(line: str) -> None:
    """As a dry run: nothing is built, but targets, knobs and recipes must be there."""
    make, *arguments = shlex.split(line)
    subprocess.run([make, "--dry-run", *arguments], cwd=PROJECT, check=True, capture_output=True)


MODELS = {
    "asr_offline": OFFLINE,
    "orders_asr_streaming": PARAMETERS,
    "clinic_asr_streaming": PARAMETERS,
}
"""What the pages name, beside the recognizer without a name."""


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeTriton]:
    with fake_triton(PARAMETERS, models=MODELS) as fake:
        fake.recognize = recognize_numbers
        fake.answer.set()
        yield fake


@pytest.mark.parametrize("line", lines_of("earshot"))
def test_every_earshot_line_runs(
    line: str, fake: FakeTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a fake server, in a folder with the files that the pages name."""
    monkeypatch.chdir(tmp_path)
    Path("recordings").symlink_to(PROJECT / "recordings")
    soundfile.write("talk.flac", audio(script(5, None)), RATE_HZ)
    _, *arguments = shlex.split(line)
    if arguments[0] == "models" and len(arguments) > 1:
        # Loading and retiring need a real repository: tests/service/test_hot_swap.py has one.
        arguments.append("--help")
    result = CliRunner().invoke(app, arguments, env={"EARSHOT_URL": fake.url})
    assert (result.exit_code, without_lag(result.stderr)) == (0, "")
    assert result.stdout or "-o" in arguments
    for option, value in itertools.pairwise(arguments):
        assert option != "-o" or Path(value).read_text()
