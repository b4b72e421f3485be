"""The client's wheel is built, installed into a fresh environment, and run there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.project import PROJECT

PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def run(*command: object) -> str:
    """Return what a command prints; it sees neither this checkout nor this environment."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def version() -> str:
    return tomllib.loads((PROJECT / "client/pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # setuptools leaves its work beside the sources, so it gets a copy.
    source = shutil.copytree(
        PROJECT / "client", folder / "client", ignore=shutil.ignore_patterns("build", "*.egg-info")
    )
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """An empty environment: the path of its Python."""
    venv.create(tmp_path / "fresh", symlinks=True)
    return tmp_path / "fresh/bin/python"


def check_client(python: Path, version: str) -> None:
    """Run what a user types first after an installation."""
    command = python.with_name("earshot")
    assert run(command, "--version") == f"earshot {version}\n"
    assert "transcribe" in run(command, "--help")
    file, imported = run(
        python, "-c", "import earshot; print(earshot.__file__, earshot.__version__)"
    ).split()
    assert Path(file).is_relative_to(python.parent.parent)
    assert imported == version


def test_the_wheel_holds_the_package_and_its_licence(wheel: Path, version: str) -> None:
    assert wheel.name == f"earshot_client-{version}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    sources = PROJECT / "client/src"
    package = {
        str(path.relative_to(sources))
        for path in (sources / "earshot").rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert {name for name in names if ".dist-info/" not in name} == package | {"earshot_command.py"}
    assert any(name.endswith("LICENSE") for name in names)


def test_the_installed_wheel_runs(wheel: Path, version: str, fresh: Path) -> None:
    """Without an index: the packages that it depends on are those of this environment."""
    run(*PIP, "--python", fresh, "install", "--no-deps", "--no-index", wheel)
    packages = run(fresh, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    check_client(fresh, version)


@pytest.mark.slow
def test_the_wheel_names_all_that_it_needs(wheel: Path, version: str, fresh: Path) -> None:
    """From the package index, with all dependencies and nothing else."""
    run(*PIP, "--python", fresh, "install", wheel)
    check_client(fresh, version)
