"""List matching versions of TensorRT, its parser's opset, the driver, and the container.

This is the only place for them. An export checks its machine against this table; a test checks the
container's tag in the Makefile and in `deploy/`, and the pinned wheels.
"""

from __future__ import annotations

from dataclasses import dataclass

from export.errors import UnsupportedOption


@dataclass(frozen=True)
class Release:
    """A TensorRT with which this project builds engines."""

    version: str
    """Major and minor version that the code was written for; other minor versions are accepted."""
    opset: int
    """The highest ONNX opset that its parser documents."""
    driver: int
    """The first driver branch for its CUDA version."""
    container: str = ""
    """Tag of NVIDIA's containers with this TensorRT and with this `triton`."""
    triton: str = ""


RELEASES = {
    "tensorrt": Release("11.4", opset=24, driver=580, container="26.11-py3", triton="2.75.0"),
    "tensorrt-rtx": Release("1.7", opset=24, driver=580),
}
"""Releases by runtime. TensorRT 11 and TensorRT for RTX 1 always take types from the graph, on
which every precision of this project relies; TensorRT 10 did so only on request."""


MAX_OPSET = min(release.opset for release in RELEASES.values())


def check_version(runtime: str, version: str) -> None:
    """Check that the installed TensorRT has the major version of the table.

    Raises:
        UnsupportedOption: it has another major version.
    """
    release = RELEASES[runtime]
    major = release.version.partition(".")[0]
    if version.partition(".")[0] != major:
        remedy = "`make env` installs it"
        if release.container:
            remedy = f"`make gpu-up` uses NVIDIA's containers of tag {release.container}"
        raise UnsupportedOption(
            f"--runtime {runtime} needs TensorRT {major}, as in {release.version}; installed is "
            f"{version}: {remedy}"
        )


def check_driver(runtime: str, driver: str) -> None:
    """Check that the driver of the GPU is not too old for TensorRT's CUDA.

    Raises:
        UnsupportedOption: it is too old.
    """
    wanted = RELEASES[runtime].driver
    if int(driver.partition(".")[0]) < wanted:
        raise UnsupportedOption(
            f"--runtime {runtime} needs driver {wanted} or newer, this machine has {driver}: "
            "update it"
        )
