"""Make the process cooperative; import this before anything that opens a socket.

Thousands of live users share one thread, so every wait must let the others run: gevent's waits
replace those of the standard library, and gRPC uses gevent too.
"""

from __future__ import annotations

import os

from gevent import monkey
from gevent.hub import Hub

# This process starts other programs, but never forks a copy of itself.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
monkey.patch_all()

from grpc.experimental import gevent as grpc_gevent  # noqa: E402

grpc_gevent.init_gevent()

# Ctrl-C ends the program; gevent would also print it as an error of a greenlet.
Hub.NOT_ERROR = (*Hub.NOT_ERROR, KeyboardInterrupt)
