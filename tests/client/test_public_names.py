"""The public names of the package: a name that comes or goes is a decision, not an accident."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import earshot
import pytest

PUBLIC = [
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
DEFINED = [value for value in vars(earshot).values() if inspect.isclass(value)] + [
    earshot.connect,
    earshot.connect_async,
]


def test_the_public_names() -> None:
    assert earshot.__all__ == PUBLIC
    assert all(hasattr(earshot, name) for name in PUBLIC)
    assert [name for name in vars(earshot) if not name.startswith("_")] == [
        name for name in vars(earshot) if name in PUBLIC and name != "__version__"
    ]


@pytest.mark.parametrize("public", DEFINED, ids=lambda public: public.__name__)
def test_public_names_have_docstrings(public: object) -> None:
    assert inspect.getdoc(public)
    members = vars(public) if inspect.isclass(public) else {}
    for name, member in members.items():
        if not name.startswith("_") and (callable(member) or isinstance(member, property)):
            assert inspect.getdoc(member), name


def test_both_clients_have_the_same_methods() -> None:
    def methods(client: type) -> set[str]:
        return {name for name in vars(client) if not name.startswith("_")}

    assert methods(earshot.Client) - {"close"} == methods(earshot.AsyncClient)
    assert methods(earshot.Stream) == methods(earshot.AsyncStream)
    for name in ("transcribe", "recognize"):
        one, other = (getattr(c, name) for c in (earshot.Client, earshot.AsyncClient))
        assert inspect.signature(one) == inspect.signature(other)


def test_the_version_is_that_of_the_distribution() -> None:
    assert earshot.__version__ == version("earshot-client")
