"""Execute another program so that it gets SIGTERM when the process that started it dies.

Usage: `python tied_exec.py PARENT_PID PROGRAM ARGS...`. A launcher that is killed cannot stop
tritonserver, so the kernel does. This runs in an interpreter of its own rather than in Popen's
`preexec_fn`, which can deadlock in a process with threads.
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
    if os.getppid() != parent:  # the parent died before the request took effect
        sys.exit(1)
    # Files of the server may contain speech: no other user of the machine may read them.
    os.umask(0o077)
    os.execv(program, sys.argv[2:])


if __name__ == "__main__":
    main()
