"""Adapters of whole files with `--runtime torch`: the gate for all architectures, and a Triton."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import earshot
import numpy as np
import pytest
from earshot._sync import open_repository

from export.adapters import install
from export.adapters.install import install_adapter
from export.audio import SAMPLE_RATE_HZ
from export.checkpoint import Checkpoint, load_checkpoint
from export.install import replacing
from export.offline.export import build_stages, spec_of
from export.offline.reference import transcribe
from export.options import ExportOptions
from export.parity import Parity
from export.recordings import Recording, load_recordings
from export.stages.adapters import LowRank
from server.launch import Triton, running
from tests.support.project import (
    ADAPTER_RANK,
    OFFLINE_KINDS,
    OFFLINE_NAMES,
    ExportedOffline,
    OfflineCheckpoint,
)
from tests.support.random_adapters import merged, random_layers, write_adapter

pytestmark = pytest.mark.slow

SECONDS, UTTERANCES = 4, 4
CLINIC, COURT, SHOP = "clinic", "court", "shop"
BASE = ""


@dataclass(frozen=True)
class Case:
    """A recognizer for torch with room for two adapters, and three of them, by name."""

    kind: str
    repository: Path
    checkpoint: Path
    adapters: dict[str, dict[str, LowRank]]

    def install(self, name: str, speech: list[Recording]) -> Parity:
        """Install an adapter beside the recognizer, compared on `speech`."""
        folder = self.repository.with_name(f"{name}_adapter")
        write_adapter(folder, self.adapters[name], self.checkpoint, ADAPTER_RANK)
        with pytest.MonkeyPatch.context() as patch, replacing(self.repository) as new:
            patch.setattr(install, "load_recordings", lambda: speech)
            base = OFFLINE_NAMES.get(self.kind, "")
            found = install_adapter(folder, self.checkpoint, new, base, name, lambda step: None)
        assert list(found) == [f"{name}_asr_offline"]
        return found[f"{name}_asr_offline"]


@pytest.fixture(scope="module")
def speech() -> list[Recording]:
    return [
        replace(recording, samples=recording.samples[: SECONDS * SAMPLE_RATE_HZ])
        for recording in load_recordings()[:UTTERANCES]
    ]


def case_of(kind: str, exported: Path, checkpoint: Path, folder: Path) -> Case:
    loaded = load_checkpoint(str(checkpoint))
    stages = build_stages(loaded, spec_of(loaded, ExportOptions("mine", runtime="torch")))
    names = enumerate((CLINIC, COURT, SHOP))
    return Case(
        kind=kind,
        repository=shutil.copytree(exported, folder / "models"),
        checkpoint=checkpoint,
        adapters={name: random_layers(stages, seed, ADAPTER_RANK) for seed, name in names},
    )


@pytest.mark.parametrize("kind", OFFLINE_KINDS)
def test_the_gate_compares_base_and_adapter_in_the_same_runs(
    kind: str,
    adapted_offline_torch: ExportedOffline,
    offline_checkpoint: OfflineCheckpoint,
    speech: list[Recording],
    tmp_path: Path,
) -> None:
    case = case_of(kind, adapted_offline_torch(kind), offline_checkpoint(kind), tmp_path)
    parity = case.install(CLINIC, speech)
    assert parity.reference_tokens > 20
    assert parity.chain_token_difference == parity.alone_token_difference == 0
    config = (case.repository / f"{CLINIC}_asr_offline" / "config.pbtxt").read_text()
    assert '"contract_version" value: { string_value: "2" }' in config


@pytest.fixture(scope="module")
def case(
    adapted_offline_torch: ExportedOffline,
    offline_checkpoint: OfflineCheckpoint,
    speech: list[Recording],
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    """A Parakeet with two adapters installed, and one that is not."""
    folder = tmp_path_factory.mktemp("adapted")
    case = case_of("rnnt", adapted_offline_torch("rnnt"), offline_checkpoint("rnnt"), folder)
    for name in (CLINIC, COURT):
        case.install(name, speech)
    return case


@pytest.fixture(scope="module")
def expected(case: Case, speech: list[Recording]) -> dict[str, list[list[int]]]:
    """The tokens of transformers, with each adapter merged and without."""
    base = load_checkpoint(str(case.checkpoint))
    models: dict[str, Checkpoint] = {BASE: base}
    models |= {name: merged(base, layers) for name, layers in case.adapters.items()}
    utterances = [recording.samples for recording in speech]
    found = {
        name: [result.tokens for result in transcribe(model, utterances)]
        for name, model in models.items()
    }
    assert len({str(tokens) for tokens in found.values()}) == len(found)
    return found


@pytest.fixture(scope="module")
def triton(case: Case) -> Iterator[Triton]:
    with running(case.repository, model_control=True) as triton:
        yield triton


async def tokens_of(url: str, name: str, samples: np.ndarray) -> list[int]:
    async with earshot.connect_async(url, model=name or None) as client:
        transcript = await client.transcribe(samples, sample_rate_hz=SAMPLE_RATE_HZ)
    return [token.id for token in transcript.tokens]


async def tokens_at_once(
    url: str, files: list[tuple[str, int]], speech: list[Recording]
) -> list[list[int]]:
    return await asyncio.gather(
        *(tokens_of(url, name, speech[turn].samples) for name, turn in files)
    )


@pytest.mark.triton
def test_an_adapter_goes_live_beside_files_of_others(
    case: Case, triton: Triton, speech: list[Recording], expected: dict[str, list[list[int]]]
) -> None:
    """There is room for two, so that the three take turns in memory."""
    url = triton.grpc_url
    names = [BASE, CLINIC, COURT]
    for name in (None, SHOP):
        if name:
            case.install(name, speech)
            with open_repository(url) as control:
                control.load(name)
            names.append(name)
        files = [(name, turn) for name in names for turn in range(UTTERANCES)] * 3
        got = asyncio.run(tokens_at_once(url, files, speech))
        assert got == [expected[name][turn] for name, turn in files]


@pytest.mark.triton
def test_an_adapter_whose_files_are_gone(case: Case, triton: Triton) -> None:
    with earshot.connect(triton.grpc_url, model=COURT) as client:
        assert client.served.offline is not None
        assert client.served.offline.adapter == COURT
        shutil.rmtree(case.repository / f"{COURT}_asr_offline")
        silence = np.zeros(SAMPLE_RATE_HZ, np.float32)
        with pytest.raises(earshot.ServerFailed, match=f"has no adapter '{COURT}'; it has"):
            client.transcribe(silence, sample_rate_hz=SAMPLE_RATE_HZ)
