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

from tests.support.fake_recognizer import PARAMETERS, RATE_HZ, FakeRecognizer, noise
from tests.support.fake_triton import OFFLINE, fake_triton
from tests.support.spoken_numbers import audio, recognize_numbers, script, words

README = Path(__file__).parents[2] / "client" / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
FILES = [example for example in EXAMPLES if "client.transcribe(" in example]
CHOICES = [example for example in EXAMPLES if "model=" in example]
LIVE = [example for example in EXAMPLES if example not in FILES + CHOICES]


class Websocket:
    """Yields audio and collects text."""

    def __init__(self) -> None:
        self.sent = ""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(5):
            yield bytes(4000)

    async def send(self, text: str) -> None:
        self.sent += text


def test_the_readme_has_examples() -> None:
    assert [len(LIVE), len(FILES), len(CHOICES)] == [5, 1, 1]


@pytest.mark.triton
@pytest.mark.parametrize("example", LIVE)
def test_live_example(
    example: str,
    client: earshot.Client,
    server: FakeRecognizer,
    capsys: pytest.CaptureFixture[str],
) -> None:
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


@pytest.mark.parametrize("example", FILES)
def test_file_example(
    example: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write("talk.flac", audio(script(5, None)), RATE_HZ)
    with fake_triton(None, models={"asr_offline": OFFLINE}) as fake:
        fake.recognize = recognize_numbers
        exec(example.replace("localhost:8001", fake.url), {"earshot": earshot})
    expected = " ".join(text for text, _ in words(script(5, None)))
    assert capsys.readouterr().out == f"{expected}\n"


@pytest.mark.parametrize("example", CHOICES)
def test_choice_example(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_triton(None, models={"clinic_v2_asr_streaming": PARAMETERS}) as fake:
        exec(example.replace("localhost:8001", fake.url), {"earshot": earshot})
    assert capsys.readouterr().out == "clinic_v2 fake\n"
