"""Import this before anything else that opens a socket: it makes the process cooperative.

Thousands of speakers share one thread, so whatever waits has to let the others speak: the standard
library's waiting is replaced by gevent's, and gRPC is told of it.
"""

from __future__ import annotations

import os

from gevent import monkey

# What is started from here is other programs, never a copy of this one.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
monkey.patch_all()

from grpc.experimental import gevent as grpc_gevent  # noqa: E402

grpc_gevent.init_gevent()
