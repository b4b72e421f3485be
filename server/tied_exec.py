"""Become another program that gets SIGTERM when the process that started it dies.

`python tied_exec.py PARENT_PID PROGRAM ARGS...`. A launcher that is killed cannot stop
tritonserver, so the kernel does. This runs between fork and exec in an interpreter of its own,
because Popen's `preexec_fn` can deadlock in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel to tie this process to its parent, then replace it."""
    parent, program = int(sys.argv[1]), sys.argv[2]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the tie held
        sys.exit(1)
    # What the server writes may hold speech: no other user of the machine may read it.
    os.umask(0o077)
    os.execv(program, sys.argv[2:])


if __name__ == "__main__":
    main()
