"""Container files, as far as they can be checked without containers or a GPU."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from export.tensorrt.versions import RELEASES
from tests.support.project import PROJECT, help_of

DEPLOY = PROJECT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
STAGES = {
    target: (before, stage)
    for before, target, stage in re.findall(
        r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S
    )
}
"""Targets, each with the image that it is built on and its instructions."""
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
BIN = Path(sys.executable).parent


def test_hadolint_finds_nothing() -> None:
    result = subprocess.run(
        [BIN / "hadolint", DEPLOY / "Dockerfile"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_compose_file_keeps_to_the_specification() -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    result = subprocess.run(
        [*command, DEPLOY / "compose.yaml"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_both_images_are_of_one_tag() -> None:
    """A plan loads only in the TensorRT that built it."""
    tags = re.findall(r"^FROM nvcr\.io/nvidia/(tensorrt|tritonserver):(\S+) AS", DOCKERFILE, re.M)
    assert tags == [("tensorrt", "${NVIDIA_TAG}"), ("tritonserver", "${NVIDIA_TAG}")]
    pinned = re.findall(r"NVIDIA_TAG \?= (\S+)", (PROJECT / "Makefile").read_text())
    assert pinned == re.findall(r"^ARG NVIDIA_TAG=(\S+)", DOCKERFILE, re.M)
    assert pinned == [RELEASES["tensorrt"].container]
    for service in COMPOSE["services"].values():
        assert service["build"]["args"]["NVIDIA_TAG"] == f"${{NVIDIA_TAG:-{pinned[0]}}}"


@pytest.mark.parametrize("name", ["engines", "triton"])
def test_services_are_confined(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["user"] == "10001:10001"
    assert service["cap_drop"] == ["ALL"]
    assert DOCKERFILE.count("USER 10001") == 4
    [gpu] = service["deploy"]["resources"]["reservations"]["devices"]
    assert gpu["count"] == 1


def test_only_grpc_and_metrics_are_open_and_only_here() -> None:
    ports = COMPOSE["services"]["triton"]["ports"]
    assert [port.rpartition(":")[2] for port in ports] == ["8001", "8002"]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert "EXPOSE 8001 8002" in DOCKERFILE
    assert "http" not in DOCKERFILE.lower().split("entrypoint", 1)[1]


def test_what_the_images_copy_is_there_and_sent() -> None:
    sent = (PROJECT / ".dockerignore").read_text()
    for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M):
        for source in line.split():
            assert (PROJECT / source).exists(), source
            assert f"!{source.removeprefix('./')}" in sent, source


def test_every_image_has_the_packages_of_the_project_that_it_imports() -> None:
    packages = {path.parent.name for path in PROJECT.glob("*/__init__.py")}
    project = packages | {path.stem for path in PROJECT.glob("*.py")}
    for target in ("build", "serve", "build-torch", "serve-torch"):
        copied = [PROJECT / source for source in copied_into(target)]
        present = {path.stem for path in copied}
        for path in copied:
            for file in [path] if path.suffix == ".py" else path.rglob("*.py"):
                assert imported_by(file) & project <= present, f"{file} in {target}"


def copied_into(target: str) -> list[str]:
    """Return what an image has of this repository, that of the image before it included."""
    before, stage = STAGES[target]
    lines = re.findall(r"^COPY (.+) \S+$", stage, re.M)
    own = [source for line in lines for source in line.split()]
    return own + (copied_into(before) if before in STAGES else [])


def imported_by(file: Path) -> set[str]:
    """Return the packages that a module imports, also in functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_images_for_torch_have_the_packages_of_the_environment() -> None:
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    serve = {re.split("[<>=]", name)[0] for name in extras["server"]} | {"torch", "grpcio"}
    assert packages_of("torch") == serve
    assert packages_of("build-torch") | serve >= set(extras["export"])


def packages_of(target: str) -> set[str]:
    """Return the packages that the only `pip install` of a target names."""
    _, stage = STAGES[target]
    [names] = re.findall(r"--constraint constraints\.txt (.+)", stage.replace("\\\n", " "))
    return set(names.split())


def test_the_commands_of_the_containers_exist() -> None:
    """The programs have every option that a container passes to them."""
    engines = COMPOSE["services"]["engines"]["command"]
    options = {word.split("=")[0] for word in engines if word.startswith("--")}
    assert options <= options_of("export")
    assert {"--repository", "--host"} <= options_of("server")
    for variable in COMPOSE["services"]["triton"]["environment"]:
        assert variable in help_of("server")


def options_of(module: str) -> set[str]:
    return set(re.findall(r"--[a-z-]+", help_of(module)))


@pytest.mark.parametrize(
    "target", ["gpu-build", "gpu-up", "gpu-verify", "gpu-capacity", "gpu-down"]
)
def test_make_knows_the_target(target: str) -> None:
    printed = subprocess.run(
        ["make", "--dry-run", target], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    assert "docker compose --file deploy/compose.yaml" in printed or target == "gpu-capacity"
