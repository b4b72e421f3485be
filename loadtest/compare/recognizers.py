"""The recognizers that Earshot is compared with, each an optional dependency.

They get each recording whole, after its end. `decode_worker.py` loads one and counts its CPU time.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import ClassVar, Protocol

from loadtest.audio.recordings import Samples
from loadtest.compare.pocketsphinx import PocketSphinx
from loadtest.compare.whisper import Whisper
from loadtest.options import OtherRecognizer


class Recognizer(Protocol):
    """A recognizer of a Python package; an instance has its models loaded."""

    TITLE: ClassVar[str]
    PACKAGES: ClassVar[tuple[str, ...]]
    """Distributions that the recognizer needs; results contain their versions."""

    def __init__(self) -> None: ...

    @property
    def name(self) -> str:
        """Return recognizer, version and model."""
        ...

    def transcribe(self, samples: Samples) -> str:
        """Return the text of one recording; it is empty if nothing was recognized."""
        ...


RECOGNIZERS: dict[OtherRecognizer, type[Recognizer]] = {
    OtherRecognizer.POCKETSPHINX: PocketSphinx,
    OtherRecognizer.WHISPER: Whisper,
}


class NotInstalled(Exception):
    """A recognizer, an optional dependency, is not installed."""


def require_installed(recognizers: Sequence[OtherRecognizer]) -> None:
    """Raise NotInstalled if one is missing, before minutes are spent on anything else."""
    for each in recognizers:
        recognizer = RECOGNIZERS[each]
        if missing := [package for package in recognizer.PACKAGES if not _is_installed(package)]:
            raise NotInstalled(
                f"{recognizer.TITLE} is not installed, it lacks {', '.join(missing)}: "
                "pip install -c constraints.txt '.[baseline]'"
            )


def versions(recognizers: Sequence[OtherRecognizer]) -> dict[str, str]:
    """Return the version of each package that `recognizers` need."""
    packages = [package for each in recognizers for package in RECOGNIZERS[each].PACKAGES]
    return {package: version(package) for package in packages}


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
