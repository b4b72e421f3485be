"""Run a command that Ctrl-C ends with one line and exit code 130, even during its imports.

The file that a user starts imports only this module, because the imports of a command take seconds:

    if __name__ == "__main__":
        run("loadtest.cli:app")

The console script `earshot`, which is installed without this repository, has `earshot_command`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import NoReturn

_EXIT_CODE = 130


def run(command: str) -> None:
    """Import and call a command, which is named as `module:function`."""
    module, _, name = command.partition(":")
    interrupt = _Interrupt()
    _on_ctrl_c(interrupt.end)
    function = getattr(importlib.import_module(module), name)
    _on_ctrl_c(interrupt.throw)
    try:
        function()
    except BaseException as end:
        if not interrupt.is_cause_of(end):
            raise
        print("interrupted", file=sys.stderr)
        raise SystemExit(_EXIT_CODE) from None


def _on_ctrl_c(handler: Callable[[int, FrameType | None], NoReturn]) -> None:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # ignored in a background job
        signal.signal(signal.SIGINT, handler)


class _Interrupt:
    """Handles Ctrl-C so that imports neither lose a KeyboardInterrupt nor print it.

    Commands import large packages where they use them, and by then may have something to clean up.
    """

    def __init__(self) -> None:
        self._came = False
        sys.unraisablehook = self._repeat
        sys.excepthook = self._print

    def end(self, number: int, frame: FrameType | None) -> NoReturn:
        """End the process: the first imports leave nothing behind to clean up."""
        os.write(2, b"interrupted\n")
        os._exit(_EXIT_CODE)

    def throw(self, number: int, frame: FrameType | None) -> NoReturn:
        """Raise KeyboardInterrupt."""
        self._came = True
        raise KeyboardInterrupt

    def is_cause_of(self, end: BaseException) -> bool:
        """Return whether Ctrl-C is the cause of an exception.

        Typer turns a KeyboardInterrupt into an exit code, and extension modules that import others
        turn it into an ImportError.
        """
        if isinstance(end, SystemExit):
            return end.code == _EXIT_CODE
        return isinstance(end, KeyboardInterrupt) or (self._came and isinstance(end, ImportError))

    @staticmethod
    def _repeat(ignored: sys.UnraisableHookArgs) -> None:
        """Interrupt again if Ctrl-C came in a callback, where Python prints and ignores exceptions.

        The import system has such callbacks.
        """
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        else:
            sys.__unraisablehook__(ignored)

    def _print(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """Print an exception, except an ImportError that Ctrl-C caused in an extension module."""
        if not self.is_cause_of(error):
            sys.__excepthook__(kind, error, trace)
