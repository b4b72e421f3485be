"""Adapters behind a real Triton: mixed streams, names that are not there, coming and going."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import earshot
import numpy as np
import pytest
from earshot._sync import open_repository

from export.adapters import install
from export.adapters.install import install_adapter
from export.audio import SAMPLE_RATE_HZ
from export.checkpoint import load_checkpoint
from export.errors import UnsupportedCheckpoint, UnsupportedOption
from export.install import replacing
from export.recordings import load_recordings
from export.streaming.reference import transcribe
from server.launch import Triton, running
from tests.support.adapters import write_merged, write_random_adapter
from tests.support.project import ADAPTED_CHUNK_MS, ADAPTER_RANK, Exported
from tests.support.workers import made_once, shared_folder

SECONDS, UTTERANCES = 4, 4
BASE, CLINIC, COURT = "", "clinic", "court"
Tokens = list[int]


@pytest.fixture(scope="module")
def utterances() -> list[np.ndarray]:
    recordings = load_recordings()[:UTTERANCES]
    return [recording.samples[: SECONDS * SAMPLE_RATE_HZ] for recording in recordings]


@pytest.fixture(scope="module")
def adapters(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters, by name."""
    folder = shared_folder(tmp_path_factory, "adapters")

    def made(seed: int, name: str) -> Path:
        return made_once(
            folder / name,
            lambda path: write_random_adapter(random_checkpoint, path, seed, ADAPTER_RANK),
        )

    return {name: made(seed, name) for seed, name in enumerate((CLINIC, COURT), start=1)}


@pytest.fixture(scope="module")
def repository(
    exported: Exported,
    random_checkpoint: Path,
    adapters: dict[str, Path],
    utterances: list[np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The random checkpoint with two adapters, which the gate has compared on some utterances."""
    chosen = [
        replace(recording, samples=samples)
        for recording, samples in zip(load_recordings(), utterances, strict=False)
    ]

    def make(path: Path) -> None:
        shutil.copytree(exported(ADAPTED_CHUNK_MS), path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(install, "load_recordings", lambda: chosen)
            for name, folder in adapters.items():
                with replacing(path) as new:
                    parity = install_adapter(
                        folder, random_checkpoint, new, BASE, name, lambda step: None
                    )
                assert parity.chain_token_difference == parity.alone_token_difference == 0

    return made_once(shared_folder(tmp_path_factory, "adapted") / "models", make)


@pytest.fixture(scope="module")
def expected(
    random_checkpoint: Path,
    adapters: dict[str, Path],
    utterances: list[np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[Tokens]]:
    """The tokens of transformers, with each adapter merged by peft, and without."""
    checkpoints = {BASE: random_checkpoint}
    for name, adapter in adapters.items():
        checkpoints[name] = tmp_path_factory.mktemp("merged") / name
        write_merged(random_checkpoint, adapter, checkpoints[name])
    lookahead = ADAPTED_CHUNK_MS // 80 - 1
    found = {
        name: [
            result.tokens
            for result in transcribe(load_checkpoint(str(folder)), utterances, lookahead)
        ]
        for name, folder in checkpoints.items()
    }
    assert found[BASE] != found[CLINIC] != found[COURT] != found[BASE]
    return found


@pytest.fixture(scope="module")
def models(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, to which adapters may be added."""
    return shutil.copytree(repository, tmp_path_factory.mktemp("served") / "models")


@pytest.fixture(scope="module")
def triton(models: Path) -> Iterator[Triton]:
    with running(models, model_control=True) as triton:
        yield triton


def add(repository: Path, name: str, like: str) -> None:
    """Install a copy of the adapter `like`."""
    copy = repository / f"{name}_asr_streaming"
    shutil.copytree(repository / f"{like}_asr_streaming", copy)
    config = (copy / "config.pbtxt").read_text()
    config = config.replace(f'"{like}_asr', f'"{name}_asr').replace(f'"{like}"', f'"{name}"')
    (copy / "config.pbtxt").write_text(config)


async def tokens_of(url: str, name: str, samples: np.ndarray) -> Tokens:
    async with (
        earshot.connect_async(url, model=name or None) as client,
        client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream,
    ):
        for start in range(0, len(samples), SAMPLE_RATE_HZ):
            await stream.send(samples[start : start + SAMPLE_RATE_HZ])
        return [token.id for token in (await stream.finish()).tokens]


@contextmanager
def traffic(
    url: str, utterances: Sequence[np.ndarray], expected: dict[str, list[Tokens]]
) -> Iterator[list[bool]]:
    """Keep streams of the base and of an adapter under way; provide whether each was right."""
    right: list[bool] = []
    stop = threading.Event()

    async def user(name: str, turn: int) -> None:
        while not stop.is_set():
            turn = (turn + 1) % len(utterances)
            tokens = await tokens_of(url, name, utterances[turn])
            right.append(tokens == expected[name][turn])

    async def run() -> None:
        await asyncio.gather(*(user(name, turn) for name in (BASE, COURT) for turn in range(2)))

    failure: list[Exception] = []

    def guarded() -> None:
        try:
            asyncio.run(run())
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield right
    finally:
        stop.set()
        thread.join()
    assert not failure


@pytest.mark.triton
def test_streams_with_adapters_and_without_at_once(
    triton: Triton, utterances: list[np.ndarray], expected: dict[str, list[Tokens]]
) -> None:
    pairs = [(name, turn) for name in expected for turn in range(len(utterances))]

    async def at_once() -> list[Tokens]:
        url = triton.grpc_url
        return await asyncio.gather(*(tokens_of(url, n, utterances[turn]) for n, turn in pairs))

    assert asyncio.run(at_once()) == [expected[name][turn] for name, turn in pairs]


def _come_and_go(
    triton: Triton,
    utterances: list[np.ndarray],
    expected: dict[str, list[Tokens]],
    models: Path,
    count: int,
) -> None:
    """More adapters than the stages hold in memory, each loaded, used and retired under traffic."""
    with (
        open_repository(triton.grpc_url) as control,
        traffic(triton.grpc_url, utterances, expected) as right,
    ):
        for number in range(count):
            name, like = f"shop{number}of{count}", (CLINIC, COURT)[number % 2]
            add(models, name, like)
            control.load(name)
            tokens = asyncio.run(tokens_of(triton.grpc_url, name, utterances[0]))
            assert tokens == expected[like][0]
            control.retire(name, triton.metrics_url, 0.0, 10.0, lambda live: None)
            with pytest.raises(earshot.UnsupportedServer, match=f"no model '{name}'"):
                earshot.connect(triton.grpc_url, model=name)
            shutil.rmtree(models / f"{name}_asr_streaming")
    assert all(right)
    assert len(right) > count


@pytest.mark.triton
def test_adapters_come_and_go_under_live_streams(
    triton: Triton,
    utterances: list[np.ndarray],
    expected: dict[str, list[Tokens]],
    models: Path,
) -> None:
    _come_and_go(triton, utterances, expected, models, 6)


@pytest.mark.slow
@pytest.mark.triton
def test_fifty_adapters_come_and_go_under_live_streams(
    triton: Triton,
    utterances: list[np.ndarray],
    expected: dict[str, list[Tokens]],
    models: Path,
) -> None:
    _come_and_go(triton, utterances, expected, models, 50)


@pytest.mark.triton
def test_an_adapter_whose_files_are_gone(triton: Triton, models: Path) -> None:
    add(models, "gone", CLINIC)
    with open_repository(triton.grpc_url) as control:
        control.load("gone")
    with earshot.connect(triton.grpc_url, model="gone") as client:
        assert client.info.adapter == "gone"
        shutil.rmtree(models / "gone_asr_streaming")
        with (
            pytest.raises(earshot.ServerFailed, match="no adapter 'gone'; it has clinic, court"),
            client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream,
        ):
            stream.send(np.zeros(SAMPLE_RATE_HZ, np.float32))


def test_an_old_client_does_not_get_the_base(repository: Path) -> None:
    """Clients refuse another version of the contract than theirs, which was 1."""
    for name in ("asr_streaming", "clinic_asr_streaming"):
        config = (repository / name / "config.pbtxt").read_text()
        version = "2" if name.startswith("clinic") else "1"
        assert f'"contract_version" value: {{ string_value: "{version}" }}' in config


@pytest.mark.parametrize(
    ("name", "base", "error", "message"),
    [
        ("", "", UnsupportedOption, "needs a --name"),
        ("Clinic", "", UnsupportedOption, "lower-case letters"),
        ("clinic", "court_v1", UnsupportedOption, "has no court_v1_asr_streaming, beside which"),
        ("clinic", "clinic", UnsupportedOption, "was exported without adapters"),
    ],
)
def test_what_cannot_be_installed(
    repository: Path,
    random_checkpoint: Path,
    adapters: dict[str, Path],
    name: str,
    base: str,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message), replacing(repository) as new:
        install_adapter(adapters[CLINIC], random_checkpoint, new, base, name, lambda step: None)


def test_an_adapter_of_other_weights(
    repository: Path, adapters: dict[str, Path], tmp_path: Path, random_checkpoint: Path
) -> None:
    other = shutil.copytree(random_checkpoint, tmp_path / "other")
    with (other / "model.safetensors").open("ab") as weights:
        weights.write(b" ")
    with (
        pytest.raises(UnsupportedCheckpoint, match="was trained beside weights with sha256"),
        replacing(repository) as new,
    ):
        install_adapter(adapters[CLINIC], other, new, BASE, "clinic", lambda step: None)


def test_an_adapter_of_a_larger_rank(
    repository: Path, tmp_path: Path, random_checkpoint: Path
) -> None:
    large = write_random_adapter(random_checkpoint, tmp_path / "large", 1, rank=3)
    with (
        pytest.raises(UnsupportedOption, match=r"has rank 3, .* again with --adapter-rank 3"),
        replacing(repository) as new,
    ):
        install_adapter(large, random_checkpoint, new, BASE, "clinic", lambda step: None)
