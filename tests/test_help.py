"""`--help` and bad options answer at once: what is heavy is imported where it is used."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.project import PROJECT

HEAVY = {
    "gevent",
    "grpc",
    "locust",
    "numpy",
    "onnx",
    "onnxruntime",
    "soundfile",
    "torch",
    "transformers",
    "tritonclient",
}


def run(*arguments: str) -> tuple[int, set[str]]:
    """The exit code of `python -m`, and the packages that it has imported."""
    command = [sys.executable, "-X", "importtime", "-m", *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    imported = re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, flags=re.M)
    return done.returncode, {name.partition(".")[0] for name in imported}


@pytest.mark.parametrize("module", ["export", "export.adapters", "server", "loadtest", "training"])
def test_help_imports_nothing_heavy(module: str) -> None:
    code, imported = run(module, "--help")
    assert code == 0
    assert "typer" in imported
    assert imported & HEAVY == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "checkpoints/demo", "--chunk-ms", "100"),
        ("export", "checkpoints/demo", "--name", "not a name"),
        ("export", "checkpoints/demo", "--precision", "fp8"),
        ("server", "--repository", "models", "--grpc-port", "65536"),
        ("loadtest", "hold", "--streams", "0"),
    ],
)
def test_bad_options_are_refused_before_anything_heavy(arguments: tuple[str, ...]) -> None:
    code, imported = run(*arguments)
    assert code == 2
    assert imported & HEAVY == set()
