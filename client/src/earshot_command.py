"""The console script `earshot`, which Ctrl-C ends with one line even while it imports the client.

It lies outside the package `earshot`, so that it runs before that package imports gRPC and numpy.
"""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Run the command `earshot`."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.SIG_IGN:  # SIGINT stays ignored in a background job
        # Imports leave nothing to clean up, and may swallow a KeyboardInterrupt.
        signal.signal(signal.SIGINT, _end)
    from earshot._cli import app

    signal.signal(signal.SIGINT, usual)
    app()


def _end(*_: object) -> None:
    os.write(2, b"earshot: interrupted\n")
    os._exit(130)
