"""The console script `earshot`: Ctrl-C ends it with one line, also while the client is imported.

It is no part of the package `earshot`, which would be imported, with gRPC and numpy, before it.
"""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Run the command `earshot`."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.SIG_IGN:  # a job in the background
        # Imports leave nothing behind to clean up, and may lose a KeyboardInterrupt.
        signal.signal(signal.SIGINT, _end)
    from earshot._cli import app

    signal.signal(signal.SIGINT, usual)
    app()


def _end(*_: object) -> None:
    os.write(2, b"earshot: interrupted\n")
    os._exit(130)
