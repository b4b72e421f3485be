"""Adapters on the torch engine, also in recordings that work like CUDA graphs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from server.backends.earshot.earshot_runtime import torch_engine
from server.backends.earshot.earshot_runtime.torch_engine import TorchEngine, open_torch
from tests.support.cpu_recorder import CpuRecorder
from tests.support.torch_recognizer import FRAMES, Recognizer

CAPACITY = 2
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    return Recognizer(tmp_path_factory.mktemp("torch"), adapters=CAPACITY)


@pytest.fixture(scope="module", params=["plain", "recorded"])
def engine(request: pytest.FixtureRequest, recognizer: Recognizer) -> TorchEngine:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "recorded":
            patch.setattr(torch_engine, "Plain", CpuRecorder)
        return open_torch(recognizer.folder, recognizer.backend_spec)


def random_pools(recognizer: Recognizer) -> list[torch.Tensor]:
    """Pools of no adapter and two random ones, for each stage that takes any."""
    random = torch.Generator().manual_seed(0)
    pools: list[torch.Tensor] = []
    for layout in recognizer.spec.recognizer.adapters.values():
        pool = 0.2 * torch.randn((CAPACITY + 1) * layout.rows, layout.width, generator=random)
        pool[: layout.rows] = 0
        pools.append(pool)
    return pools


def test_streams_with_adapters_and_without_in_one_batch(
    recognizer: Recognizer, engine: TorchEngine
) -> None:
    pools = random_pools(recognizer)
    for slot in range(1, CAPACITY + 1):
        rows = [pool.reshape(CAPACITY + 1, -1, pool.shape[1])[slot].numpy() for pool in pools]
        engine.store_adapter(slot, rows)
    random = np.random.default_rng(3)
    audio = random.normal(0, 0.1, (4, 5, FRAMES * 1280)).astype(np.float32)
    lengths = np.full((4, 5), FRAMES * 1280, np.int32)
    adapters = np.array([1, 0, 2, 1, 0])
    slots = np.array([7, 0, 11, 3, 5])
    expected = recognizer.expected(audio, lengths, [*pools, torch.tensor(adapters)])
    base = recognizer.expected(audio, lengths)
    for step in range(4):
        engine.inputs["AUDIO"][:5] = audio[step]
        engine.inputs["AUDIO_LENGTH"][:5, 0] = lengths[step]
        engine.run(slots, np.full(5, step == 0), adapters)
        tokens = next(iter(engine.outputs.values()))[:5]
        np.testing.assert_array_equal(tokens, expected[step][0])
        np.testing.assert_array_equal(tokens[[1, 4]], base[step][0][[1, 4]])
    assert any((one[0][0] != other[0][0]).any() for one, other in zip(expected, base, strict=True))
