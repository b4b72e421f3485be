"""Find a tritonserver and the parts of its Python backend.

The wheel and NVIDIA's container share one layout: `bin/tritonserver` next to `backends/python`.
They differ in the location of the stub (the process that embeds Python) and of the libraries.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from .errors import TritonNotFound

BINARY_VARIABLE = "EARSHOT_TRITONSERVER"
STUB = "triton_python_backend_stub"
_PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

_LOADER_FAILED = 127


@dataclass(frozen=True)
class TritonInstall:
    """A tritonserver and the files that its Python backend needs."""

    binary: Path
    python_backend: Path
    stub: Path
    library_dirs: tuple[Path, ...]
    python_dir: Path

    @property
    def library_path(self) -> str:
        """Return LD_LIBRARY_PATH for tritonserver and the stubs that it starts."""
        dirs = [str(path) for path in self.library_dirs]
        return os.pathsep.join([*dirs, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])


def find_triton() -> TritonInstall:
    """Return the tritonserver from the environment variable, else PATH, else the wheel."""
    binary = _find_binary()
    root = binary.parent.parent
    python_backend = root / "backends" / "python"
    if not (python_backend / "libtriton_python.so").is_file():
        raise TritonNotFound(f"{binary} has no Python backend: {python_backend} is not there")
    install = TritonInstall(
        binary=binary,
        python_backend=python_backend,
        stub=_find_stub(root, python_backend),
        library_dirs=_library_dirs(root),
        python_dir=_python_dir(),
    )
    _check_stub(install)
    return install


def _find_binary() -> Path:
    from_variable = os.environ.get(BINARY_VARIABLE)
    if from_variable is not None:
        if not os.access(from_variable, os.X_OK):
            raise TritonNotFound(f"{BINARY_VARIABLE}={from_variable} is not an executable file")
        return Path(from_variable).resolve()
    on_path = shutil.which("tritonserver")
    if on_path is not None:
        return Path(on_path).resolve()
    wheel = importlib.util.find_spec("pytriton")
    if wheel is not None and wheel.origin is not None:
        return Path(wheel.origin).resolve().parent / "tritonserver" / "bin" / "tritonserver"
    raise TritonNotFound(
        f"no tritonserver: looked at the variable {BINARY_VARIABLE}, on PATH, and for the "
        "package nvidia-pytriton; `pip install nvidia-pytriton` brings one"
    )


def _find_stub(root: Path, python_backend: Path) -> Path:
    """Return the stub: the wheel has one for each Python version, the container a single one."""
    per_version = root / "python_backend_stubs" / _PYTHON_VERSION / STUB
    candidates = (per_version, python_backend / STUB)
    for stub in candidates:
        if stub.is_file():
            if stub == per_version:
                _require_numpy_1()
            return stub
    raise TritonNotFound(
        f"no Python backend stub for Python {_PYTHON_VERSION}: looked for "
        + " and ".join(str(stub) for stub in candidates)
    )


def _require_numpy_1() -> None:
    """Refuse numpy 2: the wheel's stub was built for numpy 1 and would pass empty strings."""
    found = version("numpy")
    if int(found.partition(".")[0]) >= 2:
        raise TritonNotFound(
            f"the Python backend of the nvidia-pytriton wheel needs numpy 1, found {found}; "
            "`pip install 'numpy<2'` mends it"
        )


def _library_dirs(root: Path) -> tuple[Path, ...]:
    """Return the library folders; the first is that of this Python, which the stub must load."""
    candidates = (
        Path(sysconfig.get_config_var("LIBDIR") or sys.base_prefix),
        root.parent.parent / "nvidia_pytriton.libs",
        root / "lib",
    )
    return tuple(path for path in candidates if path.is_dir())


def _python_dir() -> Path:
    """Return the folder of the interpreter; links are not resolved, so it is in its environment."""
    folder = Path(sys.executable).parent
    if (folder / "python3").resolve() != Path(sys.executable).resolve():
        raise TritonNotFound(
            f"Triton's Python backend looks for a 'python3', and that in {folder} is not "
            f"{sys.executable}: run from a virtual environment"
        )
    return folder


def _check_stub(install: TritonInstall) -> None:
    """Check that the stub's libraries load: Triton would only report that the stub died."""
    env = {**os.environ, "LD_LIBRARY_PATH": install.library_path}
    try:
        probe = subprocess.run([install.stub], env=env, capture_output=True, text=True, timeout=30)
    except OSError as error:
        raise TritonNotFound(f"{install.stub} does not run: {error}") from error
    if probe.returncode == _LOADER_FAILED:
        raise TritonNotFound(
            f"the Python backend stub does not load: {probe.stderr.strip()}; it needs a "
            f"Python {_PYTHON_VERSION} with a shared libpython"
        )
