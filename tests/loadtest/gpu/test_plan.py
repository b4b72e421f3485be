"""Models of a report fit the GPU, and their limits follow from what they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from export import random_model
from loadtest.gpu import plan
from loadtest.gpu.plan import Model, slots
from loadtest.plan.memory import BATCH_COPIES, GPU_SHARE
from tests.support.sample_report_options import options

LARGE = Model("0.6b", 1120, "fp16")


@pytest.mark.parametrize("gpu_bytes", [80e9, 141e9])
def test_states_and_their_engine_fit_the_gpu(tmp_path: Path, gpu_bytes: float) -> None:
    chosen = options(tmp_path, gpu_bytes=gpu_bytes, max_batch=512)
    states = slots(chosen, LARGE) * plan.STATE_BYTES["0.6b"]
    graphs = 512 * BATCH_COPIES * plan.STATE_BYTES["0.6b"]
    assert states + plan.PROCESS_BYTES + graphs <= GPU_SHARE * gpu_bytes


def test_slots_leave_room_for_an_engine_of_each_process(tmp_path: Path) -> None:
    chosen = options(tmp_path, gpu_bytes=80e9, max_batch=512, instances=5, own_engines=True)
    count = slots(chosen, chosen.model("0.6b", 560))
    graphs = 512 * BATCH_COPIES * plan.STATE_BYTES["0.6b"]
    engines = 5 * (plan.PROCESS_BYTES + graphs)
    assert 4500 < count < slots(replace(chosen, own_engines=False), Model("0.6b", 560, "fp16"))
    assert count * plan.STATE_BYTES["0.6b"] + engines <= GPU_SHARE * 80e9


def test_the_memory_that_was_measured_is_planned_for() -> None:
    """An H200 had 77.4 GB in use with 6,800 slots, 5 engines and batches of up to 512."""
    state_bytes = plan.STATE_BYTES["0.6b"]
    engine_bytes = plan.PROCESS_BYTES + 512 * BATCH_COPIES * state_bytes
    assert 77.4e9 < 6800 * state_bytes + 5 * engine_bytes < 1.15 * 77.4e9


def test_slots_are_twice_the_target_where_they_fit(tmp_path: Path) -> None:
    roomy = options(tmp_path, gpu_bytes=141e9)
    assert slots(roomy, Model("demo", 560, "fp16")) == 2 * 4500
    assert slots(options(tmp_path, max_streams=7), LARGE) == 7


@pytest.mark.parametrize(("size", "sizes"), random_model.SIZES.items())
def test_states_are_no_larger_than_planned(size: str, sizes: random_model.Size) -> None:
    """Keys and values of 70 frames, and the last inputs of the depthwise convolutions."""
    frames = sizes.num_hidden_layers * sizes.hidden_size * (2 * 70 + 8)
    assert 2 * frames < plan.STATE_BYTES[size] < 1.1 * 2 * frames


def test_more_tokens_of_random_models_may_differ() -> None:
    assert Model("0.6b", 560, "fp16").allowed_change == 0.8
    assert Model("demo", 560, "fp16").allowed_change is None
