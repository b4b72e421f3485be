"""Errors of the server.

ServerError
├── UserError             the caller can correct it; the command line exits with 2
│   ├── TritonNotFound        no tritonserver, or one without a Python backend for this Python
│   ├── BadRepository         no models, not exported, or made for another runtime
│   ├── BadGpu                no GPU, or one that is too small or that the engines do not fit
│   ├── BadEndpoint           a host or port that the server cannot listen on
│   ├── NoServer              no server of this machine listens on the port
│   ├── BadAccess             certificates, tokens or keys that cannot be used together
│   ├── BadTracing            not a URL that traces can be sent to
│   └── PortInUse             another process listens there
└── TritonDied            tritonserver ended, or did not become ready in time; exits with 1
    └── Unhealthy             a stage is dead, hangs or fails
"""

from __future__ import annotations


class ServerError(Exception):
    """Base of all errors of this package."""


class UserError(ServerError):
    """An error that the caller can correct."""


class TritonNotFound(UserError):
    """No usable tritonserver on this machine."""


class BadRepository(UserError):
    """The model repository cannot be served."""


class BadGpu(UserError):
    """The engines cannot run on this GPU, or in this container."""


class BadEndpoint(UserError):
    """A host or port that the server can never listen on."""


class NoServer(UserError):
    """No server that was started here listens on the port."""


class BadAccess(UserError):
    """Certificates, tokens or keys are missing, unreadable, or contradict other options."""


class BadTracing(UserError):
    """Traces cannot be sent to this URL."""


class PortInUse(UserError):
    """A requested port is in use."""


class TritonDied(ServerError):
    """tritonserver ended by itself or did not become ready; the message ends with its log."""


class Unhealthy(TritonDied):
    """A stage is dead, hangs or fails; the message says which and how."""
