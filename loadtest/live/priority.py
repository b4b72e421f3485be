"""Give load generator and fake services scheduling priority over the measured processes."""

from __future__ import annotations

import contextlib
import os


def use_real_time_priority() -> None:
    """Give this process real-time priority, if the system allows it (root, or CAP_SYS_NICE).

    It matters if the load generator shares its machine with the server or with anything else.
    Without it a busy machine makes the generator late, and the run is reported as invalid.
    """
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
