"""Divide the tests between worker processes, for `pytest --numprocesses`.

Tests that share a server or an export stay together, on the worker that has it. What takes longest
begins first, so that no worker is left with it at the end.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

LONGEST_FIRST = (
    "tests/loadtest/selftest",
    "tests/service/test_service.py",
    "tests/export/offline/test_export.py",
    "tests/service",
    "tests/loadtest/test_locust.py",
    "tests/client/test_timeouts_leave_no_slots.py",
    "tests/training/test_gpu.py",
    "tests/export",
    "tests/server/test_launch.py",
    "tests/server/test_tensorrt.py",
    "tests/loadtest",
    "tests/release",
)
"""Beginnings of paths, in the order in which they begin; the others follow."""

A_SERVER_EACH = ("tests/service/test_service.py", "tests/service/test_offline_service.py")
"""Modules whose parameters, the last part of a test's id, have servers of their own."""


class SharedServers(LoadScopeScheduling):
    """Keep what shares a server on one worker, in the order of collection."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        path, _, test = nodeid.partition("::")
        if path not in A_SERVER_EACH:
            return path
        parameter = re.search(r"\[([^\]-]*)", test)
        return f"{path}[{parameter[1]}]" if parameter else path


def rank(item: pytest.Item) -> int:
    """Return the place of a test's module in the order in which modules begin."""
    ranks = [index for index, path in enumerate(LONGEST_FIRST) if item.nodeid.startswith(path)]
    return min(ranks, default=len(LONGEST_FIRST))
