"""A new model goes live and the old one retires while streams run: none fails, none is mixed up."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import earshot
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from earshot._cli import app
from earshot._sync import open_repository
from typer.testing import CliRunner

from checkpoints import write_random_checkpoint
from export.audio import SAMPLE_RATE_HZ
from export.checkpoint import load_checkpoint
from export.offline.export import export_offline
from export.offline.reference import transcribe as transcribe_files
from export.offline.spec import OfflineServing
from export.recordings import load_recordings
from export.reference import transcribe
from export.spec import Serving
from export.streaming import export_streaming
from server.launch import Triton, running

pytestmark = pytest.mark.triton

CHUNK_MS = 320
AT_ONCE = 16
PIECE = SAMPLE_RATE_HZ * CHUNK_MS // 1000


Tokens = list[int]


@dataclass
class Generation:
    """One exported checkpoint, and what transformers says it must hear."""

    name: str
    folder: Path
    expected: list[Tokens]
    """Of each utterance as a stream."""
    expected_files: list[Tokens]
    """Of each utterance as a file."""


@dataclass
class Heard:
    """One stream that has ended."""

    generation: str
    utterance: int
    tokens: Tokens
    newest_at_end: str
    file: bool = False


@dataclass
class Traffic:
    """Streams that come and go until told to stop."""

    heard: list[Heard] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    newest: str = "clinic_v1"
    stop: threading.Event = field(default_factory=threading.Event)
    progress: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, generation: str, count: int) -> None:
        """Until so many more streams of a generation have ended; a failure ends the waiting."""
        with self.progress:
            wanted = count + self._count(generation)
            done = self.progress.wait_for(
                lambda: bool(self.errors) or self._count(generation) >= wanted, timeout=60
            )
        assert done
        assert not self.errors

    def _count(self, generation: str) -> int:
        return sum(heard.generation == generation and not heard.file for heard in self.heard)

    def add(self, heard: Heard | Exception) -> None:
        with self.progress:
            (self.errors if isinstance(heard, Exception) else self.heard).append(heard)
            self.progress.notify_all()


@pytest.fixture(scope="module")
def utterances() -> list[np.ndarray]:
    return [recording.samples[: 6 * SAMPLE_RATE_HZ] for recording in load_recordings()]


@pytest.fixture(scope="module")
def generations(
    tmp_path_factory: pytest.TempPathFactory, utterances: list[np.ndarray]
) -> list[Generation]:
    return [
        _export(tmp_path_factory.mktemp(f"v{number}"), f"clinic_v{number}", number, utterances)
        for number in (1, 2)
    ]


def _export(folder: Path, name: str, seed: int, utterances: Sequence[np.ndarray]) -> Generation:
    checkpoint = load_checkpoint(str(write_random_checkpoint(folder / "checkpoint", seed)))
    serving = Serving(max_streams=64, encoder_instances=2)
    export_streaming(
        checkpoint, CHUNK_MS, "onnxruntime", "fp32", folder / "models", serving, _ignore, name
    )
    export_offline(
        checkpoint, "onnxruntime", "fp32", folder / "models", OfflineServing(), _ignore, name
    )
    streams = transcribe(checkpoint, utterances, lookahead=CHUNK_MS // 80 - 1)
    files = transcribe_files(checkpoint, utterances)
    return Generation(
        name,
        folder / "models",
        [reference.tokens for reference in streams],
        [reference.tokens for reference in files],
    )


def _ignore(step: str) -> None:
    pass


@contextmanager
def traffic_on(url: str, utterances: Sequence[np.ndarray]) -> Iterator[Traffic]:
    """Keeps AT_ONCE streams, and a file, under way on the newest `clinic`, from its own thread."""
    traffic = Traffic()
    thread = threading.Thread(target=lambda: asyncio.run(_run(traffic, url, utterances)))
    thread.start()
    try:
        yield traffic
    finally:
        traffic.stop.set()
        thread.join()


async def _run(traffic: Traffic, url: str, utterances: Sequence[np.ndarray]) -> None:
    async with earshot.connect_async(url, model="clinic") as client:
        await asyncio.gather(
            *(_come_and_go(traffic, client, utterances, start) for start in range(AT_ONCE)),
            _send_files(traffic, client, utterances),
        )


async def _come_and_go(
    traffic: Traffic, client: earshot.AsyncClient, utterances: Sequence[np.ndarray], start: int
) -> None:
    index = start
    while not traffic.stop.is_set():
        index = (index + 1) % len(utterances)
        try:
            await client.refresh()
            traffic.newest = max(traffic.newest, client.info.name)
            generation = client.info.name
            async with client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
                for first in range(0, len(utterances[index]), PIECE):
                    await stream.send(utterances[index][first : first + PIECE])
                    await asyncio.sleep(CHUNK_MS / 1000 / 4)  # four times as fast as life
                transcript = await stream.finish()
        except Exception as error:
            traffic.add(error)
            return
        tokens = [token.id for token in transcript.tokens]
        traffic.add(Heard(generation, index, tokens, traffic.newest))


async def _send_files(
    traffic: Traffic, client: earshot.AsyncClient, utterances: Sequence[np.ndarray]
) -> None:
    index = 0
    while not traffic.stop.is_set():
        index = (index + 1) % len(utterances)
        try:
            await client.refresh()
            generation = client.info.name
            transcript = await client.recognize(utterances[index], sample_rate_hz=SAMPLE_RATE_HZ)
        except Exception as error:
            traffic.add(error)
            return
        tokens = [token.id for token in transcript.tokens]
        traffic.add(Heard(generation, index, tokens, traffic.newest, file=True))
        await asyncio.sleep(0.2)


@pytest.fixture
def triton(generations: list[Generation], tmp_path: Path) -> Iterator[Triton]:
    """Serves the first generation from a repository of its own, and lets models come and go."""
    shutil.copytree(generations[0].folder, tmp_path / "models")
    with running(tmp_path / "models", model_control=True) as triton:
        yield triton


def install(generation: Generation, repository: Path) -> None:
    for model in generation.folder.iterdir():
        shutil.copytree(model, repository / model.name)


def models(triton: Triton, *arguments: str) -> str:
    command = ["models", *arguments, "--url", triton.grpc_url]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def states(triton: Triton) -> dict[str, str]:
    with open_repository(triton.grpc_url) as repository:
        return {status.name: status.state for status in repository.statuses()}


def loaded_models(triton: Triton) -> set[str]:
    """All models that are loaded, stages too."""
    with grpcclient.InferenceServerClient(triton.grpc_url) as client:
        index = client.get_model_repository_index().models
    return {model.name for model in index if model.state == "READY"}


def test_streams_run_through_the_change(
    generations: list[Generation], triton: Triton, utterances: list[np.ndarray], tmp_path: Path
) -> None:
    first, second = generations
    with traffic_on(triton.grpc_url, utterances) as traffic:
        traffic.wait_for(first.name, AT_ONCE)
        install(second, tmp_path / "models")
        assert models(triton, "load", second.name) == "clinic_v2 is live\n"
        traffic.wait_for(second.name, AT_ONCE)
        retired = models(
            triton, "retire", first.name, "--metrics-url", triton.metrics_url, "--quiet-s", "2"
        )
        assert retired == "clinic_v1 is retired\n"
        traffic.wait_for(second.name, AT_ONCE)
    assert not traffic.errors
    by_name = {generation.name: generation for generation in generations}
    for heard in traffic.heard:
        generation = by_name[heard.generation]
        expected = generation.expected_files if heard.file else generation.expected
        assert heard.tokens == expected[heard.utterance]
    assert {h.generation for h in traffic.heard if h.file} == set(by_name)
    through = [
        h for h in traffic.heard if (h.generation, h.newest_at_end) == (first.name, second.name)
    ]
    assert sum(not heard.file for heard in through) >= AT_ONCE // 2
    assert states(triton) == {"clinic_v1": "UNAVAILABLE", "clinic_v2": "READY"}
    assert loaded_models(triton) == {model.name for model in second.folder.iterdir()}
    differing = [a != b for a, b in zip(first.expected, second.expected, strict=True)]
    assert all(differing), "equal tokens would not show which generation was heard"


def test_retiring_waits_for_the_last_stream(
    generations: list[Generation], triton: Triton, utterances: list[np.ndarray], tmp_path: Path
) -> None:
    with open_repository(triton.grpc_url) as repository:
        live: list[int] = []

        def retire(timeout_s: float) -> None:
            repository.retire("clinic_v1", triton.metrics_url, 2.0, timeout_s, live.append)

        with (
            earshot.connect(triton.grpc_url, model="clinic_v1") as client,
            client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream,
        ):
            stream.send(utterances[0][: 4 * PIECE])
            _until(lambda: repository.live_streams("clinic_v1", triton.metrics_url) == 1)
            with pytest.raises(
                earshot.UnsupportedServer, match=r"in use after 1 s \(1 open streams\)"
            ):
                retire(timeout_s=1)
            assert live[-1] == 1
            stream.send(utterances[0][4 * PIECE :])
            tokens = [token.id for token in stream.finish().tokens]
        assert tokens == generations[0].expected[0]
        retire(timeout_s=30)
        assert states(triton) == {"clinic_v1": "UNAVAILABLE"}
        with pytest.raises(earshot.UnsupportedServer, match="is not loaded"):
            retire(timeout_s=1)


def test_a_model_that_is_gone_is_said_to_be(triton: Triton) -> None:
    with earshot.connect(triton.grpc_url) as client:
        models(triton, "unload", "clinic_v1")
        with (
            pytest.raises(earshot.StreamLost, match="no longer serves clinic_v1_asr_streaming"),
            client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream,
        ):
            stream.send(np.zeros(2 * PIECE, np.float32))
        assert not client.is_ready()
        with pytest.raises(earshot.UnsupportedServer, match="no recognizer"):
            client.refresh()


def test_what_cannot_be_loaded(triton: Triton, tmp_path: Path) -> None:
    def fail(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["models", *arguments, "--url", triton.grpc_url])
        assert result.exit_code == 2
        assert result.stdout == ""
        return result.stderr

    assert "has no recognizer 'court'; it has clinic_v1" in fail("load", "court")
    assert "'clinic_v1' is loaded already" in fail("load", "clinic_v1")
    assert "has no recognizer 'court'" in fail("unload", "court")
    served = loaded_models(triton)
    repository = tmp_path / "models"
    for model in list(repository.iterdir()):
        copy = repository / model.name.replace("v1", "v2")
        shutil.copytree(model, copy)
        for config in copy.rglob("*.pbtxt"):
            config.write_text(config.read_text().replace("clinic_v1", "clinic_v2"))
    (repository / "clinic_v2_encoder" / "1" / "model.onnx").write_text("no graph")
    complaint = fail("load", "clinic_v2")
    assert "clinic_v2_encoder" in complaint
    assert states(triton)["clinic_v1"] == "READY"
    assert loaded_models(triton) == served


def test_a_server_with_fixed_models(generations: list[Generation]) -> None:
    with running(generations[0].folder) as triton:
        result = CliRunner().invoke(
            app, ["models", "unload", "clinic_v1", "--url", triton.grpc_url]
        )
        assert result.exit_code == 2
        assert "--model-control" in result.stderr
        assert states(triton) == {"clinic_v1": "READY"}


def _until(condition) -> None:
    for _ in range(200):
        if condition():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it did not come true within 10 s")
