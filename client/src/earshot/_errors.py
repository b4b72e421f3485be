"""The exceptions of this package.

    EarshotError
    ├── ConnectionFailed     no server answers at this address
    ├── AccessDenied         the server asks for a token or key that this client did not send
    ├── UnsupportedServer    the server lacks the requested model, or breaks the contract
    ├── StreamInUse          another thread or task is sending on the stream
    ├── InvalidAudio         the audio is not finite, of a wrong type, or unreadable
    └── StreamError          a stream ended early
        ├── ServerBusy       the server has no free slot for the stream
        │   └── ServerDraining   the server is about to stop and takes no new streams
        ├── ChunkTimeout     the server took longer than `Timeouts` allows
        ├── StreamLost       the server no longer knows the stream, or is gone
        ├── MessageTooLarge  the server, or a proxy before it, refuses messages of this size
        ├── ServerFailed     the server reported an internal error
        └── StreamClosed     audio was sent after the end, after an error, or on a closed client

An error that a stream raises has three attributes: `transcript` is the text recognized before the
error, `results` are the results that the failed call had until then, and `tag` is that of the
stream.
"""

from __future__ import annotations

from ._transcript import ChunkResult, Transcript


class EarshotError(Exception):
    """The base class of all errors that this package raises."""

    transcript: Transcript | None = None
    """The transcript up to the error; None if no audio was being recognized."""
    results: tuple[ChunkResult, ...] = ()
    """The results that the failed call had before the error, and could not return."""
    tag: str = ""
    """The tag that the caller chose for the stream, if any; the message includes it."""

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} (stream {self.tag})" if self.tag else message


class ConnectionFailed(EarshotError):
    """No server answers at this address."""


class AccessDenied(EarshotError):
    """The server asks for a token or key, and got none or a wrong one."""


class UnsupportedServer(EarshotError):
    """The server lacks the requested model, or breaks the contract that this client knows."""


class StreamInUse(EarshotError):
    """Another thread or task is sending on the stream; this call has done nothing."""


class InvalidAudio(EarshotError):
    """The audio cannot be sent. A stream that raises this skips the piece and stays usable."""


class StreamError(EarshotError):
    """A stream ended early."""


class ServerBusy(StreamError):
    """The server has no free slot for the stream; try again later, or another server."""


class ServerDraining(ServerBusy):
    """The server is about to stop and takes no new streams; try another server."""


class ChunkTimeout(StreamError):
    """The server did not answer a chunk within its deadline (see `Timeouts`)."""


class StreamLost(StreamError):
    """The server no longer knows the stream: it was idle for too long, or the server restarted."""


class MessageTooLarge(StreamError):
    """The server, or a proxy in front of it, refuses messages of this size."""


class ServerFailed(StreamError):
    """The server reported an internal error while it processed a chunk."""


class StreamClosed(StreamError):
    """The stream has ended, or its client is closed: it accepts no more audio."""
