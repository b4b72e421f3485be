"""Recognize the chunks of silence with which the launcher tests the stages (`server/canary.py`).

Such a chunk is a whole stream of its own. It uses a spare slot, so that a full server is tested
too, and does not count as a stream. It carries a secret that the launcher made for its own server,
so that no caller can bypass the limits with it.
"""

from __future__ import annotations

import hmac
import json
import os

SECRET_VARIABLE = "EARSHOT_CANARY_SECRET"
CANARY = "canary"
"""Parameter of the request, which Triton passes to every stage."""


class CanaryMark:
    """Recognizes canaries by the secret of this server; without a secret there are none."""

    def __init__(self) -> None:
        self._secret = os.environ.get(SECRET_VARIABLE, "")

    def is_on(self, parameters: str) -> bool:
        """Return True if the parameters of a request, as JSON, contain the secret."""
        shown = str(json.loads(parameters or "{}").get(CANARY, ""))
        return bool(self._secret) and hmac.compare_digest(shown.encode(), self._secret.encode())
