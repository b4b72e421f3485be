"""What the client logs of a stream whose replies are late, as on a machine that is busy."""

from __future__ import annotations

import re


def without_lag(stderr: str) -> str:
    """Return the output of a program without the warnings that its text is behind the audio."""
    return re.sub(r"^.*the text is [\d.]+ s behind the audio.*\n", "", stderr, flags=re.M)
