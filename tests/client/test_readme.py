"""The examples of client/README.md run as they stand, but for the server's address."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import AsyncIterator
from pathlib import Path

import earshot
import numpy as np
import pytest
import soundfile

from tests.client.stand_in import RATE_HZ, StandIn, noise

pytestmark = pytest.mark.triton

README = Path(__file__).parents[2] / "client" / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


class Websocket:
    """Brings audio, takes text."""

    def __init__(self) -> None:
        self.sent = ""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(5):
            yield bytes(4000)

    async def send(self, text: str) -> None:
        self.sent += text


def test_the_readme_has_examples() -> None:
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(
    example: str,
    client: earshot.Client,
    server: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write("talk.flac", noise(RATE_HZ), RATE_HZ)
    websocket = Websocket()
    names = {
        "earshot": earshot,
        "client": client,
        "microphone": np.zeros((20, 4800, 2), np.int16),
        "piece": noise(RATE_HZ),
        "websocket": websocket,
    }
    code = compile(
        example.replace("localhost:8001", server.url),
        str(README),
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
    )
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, names))
    else:
        exec(code, names)
    transcript = names.get("transcript") or names["stream"].transcript
    assert transcript.words
    assert "print(" not in example or transcript.text in capsys.readouterr().out
    assert "websocket.send" not in example or transcript.text.startswith(websocket.sent)
