"""The table of versions: what the environment and the stubs hold, and what is refused by it."""

from __future__ import annotations

import pytest

from export.errors import UnsupportedOption
from export.tensorrt.export import OPSETS
from export.tensorrt.versions import MAX_OPSET, RELEASES, check_driver, check_version
from tests.support.project import PROJECT


def test_the_wheels_and_the_stubs_are_those_of_the_table() -> None:
    pinned = (PROJECT / "constraints.txt").read_text()
    assert f"tensorrt-rtx-cu13-libs=={RELEASES['tensorrt-rtx'].version}." in pinned
    stubs = (PROJECT / "typings" / "tensorrt" / "README.md").read_text()
    assert f"TensorRT {RELEASES['tensorrt'].version}." in stubs
    assert max(OPSETS.values()) <= MAX_OPSET


def test_the_guide_names_the_versions_of_the_container() -> None:
    release = RELEASES["tensorrt"]
    named = f"{release.container.removesuffix('-py3')}: TensorRT {release.version} and Triton "
    guide = (PROJECT / "deploy" / "README.md").read_text()
    assert named + release.triton.removesuffix(".0") in guide


def test_another_major_version_is_refused() -> None:
    check_version("tensorrt", "11.5.0.3")
    with pytest.raises(
        UnsupportedOption, match=r"needs TensorRT 11, .* installed is 10\.16.*gpu-up"
    ):
        check_version("tensorrt", "10.16.1.11")
    with pytest.raises(
        UnsupportedOption, match=r"needs TensorRT 1, .* installed is 2\.0.*make env"
    ):
        check_version("tensorrt-rtx", "2.0.0.1")


def test_an_old_driver_is_refused() -> None:
    check_driver("tensorrt", "580.159")
    with pytest.raises(UnsupportedOption, match=r"driver 580 or newer, this machine has 575\.64"):
        check_driver("tensorrt", "575.64.05")
