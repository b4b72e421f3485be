"""Measure how far the text of a live stream falls behind its audio.

A stream has one chunk in flight at a time. If replies take longer than their chunks last, because
of a slow network or a busy server, audio piles up in front of the client, and the text falls
further and further behind. A caller that sends nothing for a while has no audio waiting.
"""

from __future__ import annotations

import logging

_log = logging.getLogger("earshot")

_FIRST_WARNING_S = 1.0
# Live audio that had to wait until the stream began is ahead of real time by at most this. Audio
# that is further ahead is a recording, whose text is never late.
_LARGEST_LEAD_S = 2.0


class Lag:
    """The audio of one stream that waits because replies took too long."""

    def __init__(self, chunk_ms: int) -> None:
        self._chunk_s = chunk_ms / 1000
        self._began_s: float | None = None
        self._answered_s = 0.0
        self._lag_s = 0.0
        self._live = True
        self._warn_above_s = _FIRST_WARNING_S

    def answered(
        self, sent_s: float, received_s: float, taken_s: float, *, resumed: bool = False
    ) -> float:
        """Return the lag in seconds after a chunk that was sent and answered at these times.

        Args:
            sent_s: Time at which the chunk was sent, by `time.monotonic()`.
            received_s: Time at which its reply was received.
            taken_s: The seconds of audio that the stream has taken so far.
            resumed: True if the chunk waited for another server, which is reported elsewhere.
        """
        if self._began_s is None:
            self._began_s = self._answered_s = sent_s
        idle_s = sent_s - self._answered_s
        self._answered_s = received_s
        self._live &= taken_s - (sent_s - self._began_s) < _LARGEST_LEAD_S
        # A caller that was idle for more than half a chunk had no audio waiting.
        if not self._live or idle_s > self._chunk_s / 2:
            self._lag_s = idle_s = 0.0
        if self._live:
            lag_s = self._lag_s + idle_s + received_s - sent_s - self._chunk_s
            self._lag_s = max(0.0, round(lag_s, 3))
        self._warn(received_s - sent_s, resumed)
        return self._lag_s

    def _warn(self, reply_s: float, resumed: bool) -> None:
        """Log a lag that has doubled since the last warning."""
        if not self._lag_s:
            self._warn_above_s = _FIRST_WARNING_S
        elif resumed:
            self._warn_above_s = max(self._warn_above_s, 2 * self._lag_s)
        elif self._lag_s > self._warn_above_s:
            self._warn_above_s = 2 * self._lag_s
            _log.warning(
                "the text is %.1f s behind the audio: the last chunk of %.0f ms was answered after "
                "%.0f ms; longer chunks or a nearer server keep up",
                self._lag_s,
                1000 * self._chunk_s,
                1000 * reply_s,
            )
