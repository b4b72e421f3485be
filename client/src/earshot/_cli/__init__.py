"""The command `earshot`, and what only it needs."""

from .commands import app

__all__ = ["app"]
