"""Transcribe live audio and files with an Earshot server, over gRPC.

Start with `connect`, or with `connect_async` under asyncio.
"""

from ._aio import AsyncClient, AsyncStream, connect_async
from ._errors import (
    AccessDenied,
    ChunkTimeout,
    ConnectionFailed,
    EarshotError,
    InvalidAudio,
    MessageTooLarge,
    ServerBusy,
    ServerDraining,
    ServerFailed,
    StreamClosed,
    StreamError,
    StreamInUse,
    StreamLost,
    UnsupportedServer,
)
from ._handshake import Served
from ._pcm import Pcm
from ._server_info import Head, OfflineInfo, ServerInfo
from ._source import AudioSource
from ._stream_options import StreamOptions
from ._sync import Client, Stream, connect
from ._timeouts import Timeouts
from ._transcript import (
    ChunkResult,
    FailedSpan,
    Label,
    Resumption,
    Token,
    Transcript,
    Utterance,
    Word,
)
from ._version import __version__

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "AsyncStream",
    "AudioSource",
    "ChunkResult",
    "ChunkTimeout",
    "Client",
    "ConnectionFailed",
    "EarshotError",
    "FailedSpan",
    "Head",
    "InvalidAudio",
    "Label",
    "MessageTooLarge",
    "OfflineInfo",
    "Pcm",
    "Resumption",
    "Served",
    "ServerBusy",
    "ServerDraining",
    "ServerFailed",
    "ServerInfo",
    "Stream",
    "StreamClosed",
    "StreamError",
    "StreamInUse",
    "StreamLost",
    "StreamOptions",
    "Timeouts",
    "Token",
    "Transcript",
    "UnsupportedServer",
    "Utterance",
    "Word",
    "__version__",
    "connect",
    "connect_async",
]
