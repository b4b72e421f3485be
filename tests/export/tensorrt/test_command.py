"""`python -m export --runtime tensorrt` on a machine without TensorRT: the errors and hints."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest

from tests.support.project import DEMO_CHECKPOINT, PROJECT


def refused(module: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", module, str(DEMO_CHECKPOINT), *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


def test_a_precision_of_the_other_runtime_is_refused() -> None:
    assert "fp32, fp16, bf16, fp8" in refused("export", "--runtime=tensorrt", "--precision=int8")
    assert "fp32, int8" in refused("export", "--precision=fp16")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is here")
def test_without_tensorrt_the_error_names_the_container() -> None:
    assert "make gpu-up" in refused("export", "--runtime=tensorrt")
    assert "make gpu-up" in refused("export.tensorrt.verify", "--repository=nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runtime=tensorrt-rtx", "--gpu=sm90"], "got --gpu sm90. .* use --runtime torch"),
        (["--runtime=tensorrt-rtx", "--gpu=sm89,sm89"], "names a GPU twice: sm89,sm89"),
        (
            ["--runtime=tensorrt-rtx", "--gpu=sm75", "--precision=bf16"],
            r"bf16 needs sm80 or newer, got --gpu sm75 \(T4, RTX 20\)",
        ),
        (["--runtime=onnxruntime", "--gpu=sm89"], "--gpu is for --runtime tensorrt-rtx"),
        (["--runtime=tensorrt-rtx", "--precision=fp8"], "has no precision fp8; choose one of fp32"),
    ],
)
def test_gpus_that_cannot_be_built_for_are_refused(options: list[str], message: str) -> None:
    assert re.search(message, refused("export", *options))


def test_fp8_needs_modelopt(monkeypatch: pytest.MonkeyPatch) -> None:
    from export.errors import UnsupportedOption
    from export.tensorrt.fp8 import PYTHON_VARIABLE, modelopt_python

    monkeypatch.setenv(PYTHON_VARIABLE, "/nowhere/python")
    with pytest.raises(UnsupportedOption, match=r"modelopt.*PYTHON.*'/nowhere/python'.*gpu-up"):
        modelopt_python()


def test_only_one_file_imports_tensorrt_and_one_modelopt() -> None:
    importers = {
        "tensorrt": {"bindings.py"},
        "tensorrt_rtx_bindings": {"bindings.py"},
        "modelopt": {"fp8_worker.py"},
    }
    for package, files in importers.items():
        importing = {
            path.name
            for path in (PROJECT / "export").rglob("*.py")
            for line in path.read_text().splitlines()
            if line.split()[:2] in (["import", package], ["from", package])
            or (line.split()[:1] == ["from"] and line.split()[1].startswith(f"{package}."))
        }
        assert importing == files
