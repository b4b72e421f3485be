"""The command `earshot`, with its output formats and the microphone."""

from .commands import app

__all__ = ["app"]
