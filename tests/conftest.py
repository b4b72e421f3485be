"""Fixtures that several suites share, checkpoints and their exports, and the order of the tests."""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from server import process
from tests.support.project import (
    ADAPTED_CHUNK_MS,
    ADAPTER_RANK,
    OFFLINE_NAMES,
    PROJECT,
    Exported,
    ExportedOffline,
    OfflineCheckpoint,
    OfflineReference,
    Served,
)
from tests.support.workers import Make, made_once, shared_folder

if TYPE_CHECKING:
    from export.checkpoint import Checkpoint
    from export.options import OfflineServing
    from export.streaming.reference import ReferenceResult
    from server.launch import Triton


if "PYTEST_XDIST_WORKER" in os.environ:
    # Other workers use the other cores: threads of torch would wait for each other.
    os.environ["OMP_NUM_THREADS"] = "1"
    # In a new environment the first worker compiles these packages, instead of each of them.
    with Path(__file__).open() as mine:
        fcntl.flock(mine, fcntl.LOCK_EX)
        importlib.import_module("tests.support.checkpoints")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests with `&` has them ignore Ctrl-C, and programs inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Divide the tests between the workers of `pytest --numprocesses`."""
    from tests.support.schedule import SharedServers

    return SharedServers(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no worker is left with it at the end."""
    if config.pluginmanager.hasplugin("xdist"):
        from tests.support.schedule import rank

        items.sort(key=rank)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the engines that the tests have built."""
    from tests.support.engine_table import print_engines

    print_engines(terminalreporter)


def pytest_collection_finish() -> None:
    """Keep what is loaded by now out of garbage collections, which would look through all of it."""
    gc.collect()
    gc.freeze()


STOP_TIMEOUT_S = process._STOP_TIMEOUT_S


@pytest.fixture(scope="session", autouse=True)
def servers_are_killed() -> Iterator[None]:
    """Kill servers at the end of their block: tritonserver takes four seconds to end by itself.

    Tests of that end, and of what comes with it, use `servers_end`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "_STOP_TIMEOUT_S", 0.0)
        yield


@pytest.fixture
def servers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers end by themselves, as they do outside the tests."""
    monkeypatch.setattr(process, "_STOP_TIMEOUT_S", STOP_TIMEOUT_S)


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random streaming transducer."""
    from tests.support.checkpoints import write_random_checkpoint

    folder = shared_folder(tmp_path_factory, "checkpoint")
    return made_once(folder / "random", write_random_checkpoint)


@pytest.fixture(scope="session")
def many_graphs() -> Iterator[None]:
    """Make ready for the export of many graphs."""
    from tests.support.torchlib import read_once

    with pytest.MonkeyPatch.context() as patch:
        read_once(patch)
        yield


@pytest.fixture(scope="session")
def exported(
    random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, many_graphs: None
) -> Exported:
    """Export the random checkpoint for a chunk, once per session: chunk_ms -> repository.

    With `ADAPTED_CHUNK_MS` it takes adapters.
    """
    from export.checkpoint import load_checkpoint
    from export.install import replacing
    from export.options import ExportOptions, Serving
    from export.streaming.export import export_streaming

    folder = shared_folder(tmp_path_factory, "exported")
    plain = Serving(max_streams=256, sequence_idle_ms=10_000, encoder_instances=2)
    adapted = replace(plain, adapters=4, adapter_rank=ADAPTER_RANK)

    def repository(chunk_ms: int) -> Path:
        def export(path: Path) -> None:
            serving = adapted if chunk_ms == ADAPTED_CHUNK_MS else plain
            options = ExportOptions(
                str(random_checkpoint), path, chunk_ms=chunk_ms, serving=serving
            )
            checkpoint = load_checkpoint(options.checkpoint)
            with replacing(path) as new:
                export_streaming(checkpoint, options, new, lambda step: None)

        return made_once(folder / str(chunk_ms), export)

    return repository


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """Serve a repository; modules that follow each other and ask for the same share a server.

    For tests that leave the models and their streams as they were.
    """
    from server.launch import running

    current: dict[Path, Triton] = {}
    with ExitStack() as server:

        def serve(repository: Path) -> Triton:
            if repository not in current:
                server.close()
                current.clear()
                current[repository] = server.enter_context(running(repository))
            return current[repository]

        yield serve


@pytest.fixture(scope="session")
def speech_folder() -> Path:
    """Recordings to test with: EARSHOT_SPEECH, else those of this repository."""
    return Path(os.environ.get("EARSHOT_SPEECH", PROJECT / "recordings"))


@pytest.fixture(scope="session")
def offline_checkpoint(
    random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> OfflineCheckpoint:
    """Write a small random checkpoint of a kind for whole utterances: kind -> folder."""
    from tests.support.parakeet_checkpoints import write_parakeet_checkpoint

    folder = shared_folder(tmp_path_factory, "parakeet")

    def checkpoint(kind: str) -> Path:
        if kind == "streaming":
            return random_checkpoint
        return made_once(folder / kind, lambda path: write_parakeet_checkpoint(path, kind))

    return checkpoint


def _export_offline(checkpoint: Path, kind: str, runtime: str, serving: OfflineServing) -> Make:
    """Return a function that exports a random checkpoint for whole utterances to a repository."""
    from export.checkpoint import load_checkpoint
    from export.install import replacing
    from export.offline.export import export_offline
    from export.options import ExportOptions

    def export(path: Path) -> None:
        options = ExportOptions(
            str(checkpoint),
            path,
            runtime=runtime,
            name=OFFLINE_NAMES.get(kind, ""),
            offline_serving=serving,
        )
        with replacing(path) as new:
            export_offline(load_checkpoint(options.checkpoint), options, new, lambda step: None)

    return export


@pytest.fixture(scope="session")
def exported_offline(
    offline_checkpoint: OfflineCheckpoint,
    tmp_path_factory: pytest.TempPathFactory,
    many_graphs: None,
) -> ExportedOffline:
    """Export a random checkpoint for whole utterances, once per session: kind -> repository.

    That of the kind `streaming` takes adapters.
    """
    from export.options import OfflineServing

    folder = shared_folder(tmp_path_factory, "exported_offline")

    def repository(kind: str) -> Path:
        adapters = 4 if kind == "streaming" else 0
        serving = OfflineServing(adapters=adapters, adapter_rank=ADAPTER_RANK)
        export = _export_offline(offline_checkpoint(kind), kind, "onnxruntime", serving)
        return made_once(folder / kind, export)

    return repository


@pytest.fixture(scope="session")
def exported_offline_torch(
    offline_checkpoint: OfflineCheckpoint, tmp_path_factory: pytest.TempPathFactory
) -> ExportedOffline:
    """The same for torch, with batches of eight and without adapters: kind -> repository."""
    from export.options import OfflineServing

    folder = shared_folder(tmp_path_factory, "exported_offline_torch")
    serving = OfflineServing(max_batch_size=8, encoder_instances=1)

    def repository(kind: str) -> Path:
        export = _export_offline(offline_checkpoint(kind), kind, "torch", serving)
        return made_once(folder / kind, export)

    return repository


@pytest.fixture(scope="session")
def adapted_offline_torch(
    offline_checkpoint: OfflineCheckpoint, tmp_path_factory: pytest.TempPathFactory
) -> ExportedOffline:
    """The same with room for two adapters, for slow tests: kind -> repository.

    Compared on a few seconds of speech only.
    """
    from export.offline import export as offline_export
    from export.options import OfflineServing
    from export.recordings import load_recordings

    folder = shared_folder(tmp_path_factory, "adapted_offline_torch")
    serving = OfflineServing(
        max_batch_size=8, encoder_instances=1, adapters=2, adapter_rank=ADAPTER_RANK
    )
    speech = [replace(each, samples=each.samples[: 3 * 16_000]) for each in load_recordings()[:3]]

    def repository(kind: str) -> Path:
        export = _export_offline(offline_checkpoint(kind), kind, "torch", serving)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(offline_export, "load_recordings", lambda: speech)
            return made_once(folder / kind, export)

    return repository


@pytest.fixture(scope="session")
def offline_reference() -> OfflineReference:
    """Transcribe the recordings with transformers, once for each checkpoint."""
    from export.offline.reference import transcribe
    from export.recordings import load_recordings

    known: dict[str, list[ReferenceResult]] = {}

    def reference(checkpoint: Checkpoint) -> list[ReferenceResult]:
        if checkpoint.sha256 not in known:
            speech = [recording.samples for recording in load_recordings()]
            known[checkpoint.sha256] = transcribe(checkpoint, speech)
        return known[checkpoint.sha256]

    return reference
