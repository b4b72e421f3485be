"""Scripts are real speech without pauses, from different recordings on."""

from __future__ import annotations

import numpy as np

from loadtest.audio.recordings import load_clips
from loadtest.audio.scripts import write_scripts
from loadtest.options import RECORDINGS


def test_scripts_are_whole_recordings_from_different_places() -> None:
    clips = load_clips(RECORDINGS)
    scripts = write_scripts(clips, min_s=8.0)
    assert len(scripts) == len(clips)
    for script, clip in zip(scripts, clips, strict=True):
        assert len(script.samples) >= 8 * 16_000
        assert clip.transcript is not None
        assert script.transcript is not None
        assert script.transcript.startswith(clip.transcript)
        np.testing.assert_array_equal(script.samples[: len(clip.samples)], clip.samples)
