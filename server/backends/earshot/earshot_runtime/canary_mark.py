"""Recognize the chunks of silence with which the launcher tests the stages (`server/canary.py`).

Such a chunk is a whole stream of its own. It has a slot beside those of the callers, so that a full
server is tested too, and it counts as nobody's stream. It shows a secret that the launcher has made
for its own server: a caller must not pass by the limits with it.
"""

from __future__ import annotations

import hmac
import json
import os

SECRET_VARIABLE = "EARSHOT_CANARY_SECRET"
CANARY = "canary"
"""Parameter of the request, which Triton hands to every stage."""


class CanaryMark:
    """Knows the secret of this server; without one there are no canaries."""

    def __init__(self) -> None:
        self._secret = os.environ.get(SECRET_VARIABLE, "")

    def is_on(self, parameters: str) -> bool:
        """Return True if the parameters of a request, as JSON, show the secret."""
        shown = str(json.loads(parameters or "{}").get(CANARY, ""))
        return bool(self._secret) and hmac.compare_digest(shown.encode(), self._secret.encode())
