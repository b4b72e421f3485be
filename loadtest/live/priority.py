"""Who speaks, or stands in for a server, should not queue for a CPU behind what is measured."""

from __future__ import annotations

import contextlib
import os


def go_first() -> None:
    """Real time for this process, if the system allows it (root, or CAP_SYS_NICE).

    It matters where the generator shares a machine with the server, or with anything else. Without
    it a busy machine makes the generator late, and the run says so.
    """
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
