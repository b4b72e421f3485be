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
    "tests/deploy",
    "tests/loadtest",
    "tests/release",
)
"""Beginnings of paths, in the order in which they begin; the others follow."""

SERVERS = (
    (r"tests/client/test_timeouts_leave_no_slots\.py", "streaming 320"),
    (r"tests/loadtest/soak/test_soak\.py", "streaming 320"),
    (r"tests/service/test_service\.py.*\[(\d+)ms", r"streaming \1"),
    (r"tests/service/test_files\.py", "offline streaming"),
    (r"tests/service/test_offline_service\.py.*\[(streaming|rnnt|tdt)", r"offline \1"),
    (r"tests/service/test_offline_service\.py", "offline ctc"),
)
"""Patterns of the ids of tests that use the fixture `served`, and the server that they get."""


class SharedServers(LoadScopeScheduling):
    """Keep what shares a server on one worker, in the order of collection."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        found = ((re.match(pattern, nodeid), server) for pattern, server in SERVERS)
        servers = (match.expand(server) for match, server in found if match)
        return next(servers, nodeid.partition("::")[0])


def rank(item: pytest.Item) -> int:
    """Return the place of a test's module in the order in which modules begin."""
    ranks = [index for index, path in enumerate(LONGEST_FIRST) if item.nodeid.startswith(path)]
    return min(ranks, default=len(LONGEST_FIRST))
