"""Adapters behind a real Triton, for streams and files: mixed, unknown names, coming and going."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
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
from export.checkpoint import Checkpoint, load_checkpoint
from export.errors import UnsupportedCheckpoint, UnsupportedOption
from export.install import replacing
from export.offline.reference import transcribe as transcribe_files
from export.recordings import load_recordings
from export.streaming.reference import transcribe
from server.launch import Triton, running
from tests.support.adapters import write_merged, write_random_adapter
from tests.support.fake_recognizer import PATIENT
from tests.support.generations import FIRST, install_first
from tests.support.project import ADAPTED_CHUNK_MS, ADAPTER_RANK, Exported, ExportedOffline
from tests.support.workers import made_once, shared_folder

SECONDS, UTTERANCES = 4, 4
BASE, CLINIC, COURT = FIRST, "clinic", "court"
ENSEMBLES = ("asr_streaming", "asr_offline")
Tokens = list[int]
TokensOf = Callable[[str, str, np.ndarray], Awaitable[Tokens]]
"""URL, name and samples -> tokens."""


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
    exported_offline: ExportedOffline,
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
        path.mkdir()
        install_first(exported(ADAPTED_CHUNK_MS), exported_offline("streaming"), path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(install, "load_recordings", lambda: chosen)
            for name, folder in adapters.items():
                with replacing(path) as new:
                    found = install_adapter(
                        folder, random_checkpoint, new, BASE, name, lambda step: None
                    )
                assert list(found) == [f"{name}_{role}" for role in ENSEMBLES]
                for parity in found.values():
                    assert parity.chain_token_difference == parity.alone_token_difference == 0

    return made_once(shared_folder(tmp_path_factory, "adapted") / "models", make)


@pytest.fixture(scope="module")
def checkpoints(
    random_checkpoint: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Checkpoint]:
    """The base, and with each adapter merged by peft."""
    found = {BASE: load_checkpoint(str(random_checkpoint))}
    for name, adapter in adapters.items():
        folder = tmp_path_factory.mktemp("merged") / name
        write_merged(random_checkpoint, adapter, folder)
        found[name] = load_checkpoint(str(folder))
    return found


@pytest.fixture(scope="module")
def expected(
    checkpoints: dict[str, Checkpoint], utterances: list[np.ndarray]
) -> dict[str, list[Tokens]]:
    """The tokens of transformers for streams."""
    lookahead = ADAPTED_CHUNK_MS // 80 - 1
    return differing(
        {
            name: [result.tokens for result in transcribe(checkpoint, utterances, lookahead)]
            for name, checkpoint in checkpoints.items()
        }
    )


@pytest.fixture(scope="module")
def expected_of_files(
    checkpoints: dict[str, Checkpoint], utterances: list[np.ndarray]
) -> dict[str, list[Tokens]]:
    """The tokens of transformers for whole files."""
    return differing(
        {
            name: [result.tokens for result in transcribe_files(checkpoint, utterances)]
            for name, checkpoint in checkpoints.items()
        }
    )


def differing(found: dict[str, list[Tokens]]) -> dict[str, list[Tokens]]:
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
    for role in ENSEMBLES:
        copy = repository / f"{name}_{role}"
        shutil.copytree(repository / f"{like}_{role}", copy)
        config = (copy / "config.pbtxt").read_text()
        config = config.replace(f'"{like}_asr', f'"{name}_asr').replace(f'"{like}"', f'"{name}"')
        (copy / "config.pbtxt").write_text(config)


def remove(repository: Path, name: str) -> None:
    for role in ENSEMBLES:
        shutil.rmtree(repository / f"{name}_{role}")


async def tokens_of_file(url: str, name: str, samples: np.ndarray) -> Tokens:
    async with earshot.connect_async(url, model=name, timeouts=PATIENT) as client:
        assert client.served.offline is not None
        transcript = await client.transcribe(samples, sample_rate_hz=SAMPLE_RATE_HZ)
    return [token.id for token in transcript.tokens]


async def tokens_of(url: str, name: str, samples: np.ndarray) -> Tokens:
    async with (
        earshot.connect_async(url, model=name, timeouts=PATIENT) as client,
        client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream,
    ):
        for start in range(0, len(samples), SAMPLE_RATE_HZ):
            await stream.send(samples[start : start + SAMPLE_RATE_HZ])
        return [token.id for token in (await stream.finish()).tokens]


@contextmanager
def traffic(
    url: str,
    utterances: Sequence[np.ndarray],
    expected: dict[str, list[Tokens]],
    expected_of_files: dict[str, list[Tokens]],
) -> Iterator[list[bool]]:
    """Keep streams and files of base and adapter under way; provide whether each was right."""
    right: list[bool] = []
    stop = threading.Event()

    async def user(name: str, recognize: TokensOf, wanted: dict[str, list[Tokens]]) -> None:
        turn = 0
        while not stop.is_set():
            turn = (turn + 1) % len(utterances)
            tokens = await recognize(url, name, utterances[turn])
            right.append(tokens == wanted[name][turn])

    async def run() -> None:
        users = [
            user(name, recognize, wanted)
            for name in (BASE, COURT)
            for recognize, wanted in ((tokens_of, expected), (tokens_of_file, expected_of_files))
        ]
        await asyncio.gather(*users)

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


@pytest.mark.triton
def test_sixty_four_files_at_once(
    triton: Triton, utterances: list[np.ndarray], expected_of_files: dict[str, list[Tokens]]
) -> None:
    pairs = [(name, turn) for name in expected_of_files for turn in range(len(utterances))]
    pairs = (pairs * 64)[:64]

    async def at_once() -> list[Tokens]:
        url = triton.grpc_url
        files = [tokens_of_file(url, name, utterances[turn]) for name, turn in pairs]
        return await asyncio.gather(*files)

    assert asyncio.run(at_once()) == [expected_of_files[name][turn] for name, turn in pairs]


def _come_and_go(
    triton: Triton,
    utterances: list[np.ndarray],
    expected: dict[str, list[Tokens]],
    expected_of_files: dict[str, list[Tokens]],
    models: Path,
    count: int,
) -> None:
    """More adapters than the stages hold in memory, each loaded, used and retired under traffic."""
    url = triton.grpc_url
    with (
        open_repository(url) as control,
        traffic(url, utterances, expected, expected_of_files) as right,
    ):
        for number in range(count):
            name, like = f"shop{number}of{count}", (CLINIC, COURT)[number % 2]
            add(models, name, like)
            control.load(name)
            assert asyncio.run(tokens_of(url, name, utterances[0])) == expected[like][0]
            tokens = asyncio.run(tokens_of_file(url, name, utterances[0]))
            assert tokens == expected_of_files[like][0]
            control.retire(name, triton.metrics_url, 0.0, 300.0, lambda live: None)
            with pytest.raises(earshot.UnsupportedServer, match=f"no model '{name}'"):
                earshot.connect(url, model=name)
            remove(models, name)
    assert all(right)
    assert len(right) > count


@pytest.mark.triton
def test_adapters_come_and_go_under_live_streams(
    triton: Triton,
    utterances: list[np.ndarray],
    expected: dict[str, list[Tokens]],
    expected_of_files: dict[str, list[Tokens]],
    models: Path,
) -> None:
    _come_and_go(triton, utterances, expected, expected_of_files, models, 6)


@pytest.mark.slow
@pytest.mark.triton
def test_fifty_adapters_come_and_go_under_live_streams(
    triton: Triton,
    utterances: list[np.ndarray],
    expected: dict[str, list[Tokens]],
    expected_of_files: dict[str, list[Tokens]],
    models: Path,
) -> None:
    _come_and_go(triton, utterances, expected, expected_of_files, models, 50)


@pytest.mark.triton
def test_an_adapter_whose_files_are_gone(triton: Triton, models: Path) -> None:
    add(models, "gone", CLINIC)
    with open_repository(triton.grpc_url) as control:
        control.load("gone")
    with earshot.connect(triton.grpc_url, model="gone", timeouts=PATIENT) as client:
        assert client.info.adapter == "gone"
        remove(models, "gone")
        silence = np.zeros(SAMPLE_RATE_HZ, np.float32)
        unknown = pytest.raises(
            earshot.ServerFailed, match="no adapter 'gone'; it has clinic, court: install"
        )
        with unknown, client.stream(sample_rate_hz=SAMPLE_RATE_HZ) as stream:
            stream.send(silence)
        with unknown:
            client.transcribe(silence, sample_rate_hz=SAMPLE_RATE_HZ)


def test_an_old_client_does_not_get_the_base(repository: Path) -> None:
    """Clients refuse another version of the contract than theirs, which was 1."""
    for name, version in ((BASE, "1"), (CLINIC, "2")):
        configs = [repository / f"{name}_{role}" / "config.pbtxt" for role in ENSEMBLES]
        for config in (path.read_text() for path in configs):
            assert f'"contract_version" value: {{ string_value: "{version}" }}' in config


@pytest.mark.parametrize(
    ("name", "base", "error", "message"),
    [
        ("", "", UnsupportedOption, "needs a --name"),
        ("Clinic", "", UnsupportedOption, "lower-case letters"),
        ("clinic", "court_v1", UnsupportedOption, "has no recognizer court_v1_asr_streaming"),
        ("clinic", "court", UnsupportedOption, "shares those of clinic_v1_asr_streaming"),
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
        pytest.raises(UnsupportedCheckpoint, match="was trained on weights with sha256"),
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
