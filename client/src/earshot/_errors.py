"""Everything that can go wrong, as one tree.

    EarshotError
    ├── ConnectionFailed     nothing answers at this address
    ├── UnsupportedServer    a server answers, but not one that this client can talk to
    ├── InvalidAudio         the audio cannot be sent: not finite, wrong type, unreadable file
    └── StreamError          one stream came to an early end
        ├── ServerBusy       the server refused the stream: every place is taken
        ├── ChunkTimeout     the server took longer than `Timeouts` allows
        ├── StreamLost       the server no longer knows the stream, or is gone
        ├── ServerFailed     the server reported a failure of its own
        └── StreamClosed     a send after the end, or after an error

An error that a stream raises has the attribute `transcript`: what was recognized before it.
Nothing recognized is lost.
"""

from __future__ import annotations

from ._transcript import Transcript


class EarshotError(Exception):
    """Base of all errors that this package raises."""

    transcript: Transcript | None = None
    """What the stream had recognized before the error; None where there was no stream."""


class ConnectionFailed(EarshotError):
    """Nothing answers at this address."""


class UnsupportedServer(EarshotError):
    """The server lacks the streaming model, or breaks the contract that this client knows."""


class InvalidAudio(EarshotError):
    """The audio cannot be sent. A stream that raises this stays usable without the piece."""


class StreamError(EarshotError):
    """One stream came to an early end."""


class ServerBusy(StreamError):
    """The server refused the stream because every place is taken; try later or elsewhere."""


class ChunkTimeout(StreamError):
    """The server did not answer a chunk within its deadline (see `Timeouts`)."""


class StreamLost(StreamError):
    """The server no longer knows the stream: it was idle too long, or the server restarted."""


class ServerFailed(StreamError):
    """The server reported a failure while it worked on a chunk."""


class StreamClosed(StreamError):
    """The stream has ended and takes no more audio."""
