"""END frees a stream in every stage, also when a stage refuses the chunk."""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from server.launch import Triton, running
from tests.support.launcher import wait_for
from tests.support.metrics import metric
from tests.support.project import Exported
from tests.support.toy_streams import new_id

pytestmark = pytest.mark.triton

CHUNK_MS = 320
STAGES = ("feature_extractor", "encoder", "decoder")


def test_a_refused_end_frees_every_stage(exported: Exported) -> None:
    with (
        running(exported(CHUNK_MS)) as triton,
        grpcclient.InferenceServerClient(triton.grpc_url) as client,
    ):
        streams = [new_id() for _ in range(5)]
        for stream in streams:
            _send(client, stream, 0.0, sequence_start=True)
        _wait_for_live(triton, 5)
        for stream in streams:
            with pytest.raises(InferenceServerException, match="the last chunk is refused"):
                _send(client, stream, np.nan, sequence_end=True)
        _wait_for_live(triton, 0)
        assert not any(metric(triton, "earshot_expired_streams_total", stage) for stage in STAGES)


def _send(
    client: grpcclient.InferenceServerClient,
    stream: int,
    value: float,
    *,
    sequence_start: bool = False,
    sequence_end: bool = False,
) -> None:
    samples = CHUNK_MS * 16
    inputs = [
        grpcclient.InferInput("AUDIO", [1, samples], "FP32"),
        grpcclient.InferInput("AUDIO_LENGTH", [1, 1], "INT32"),
    ]
    inputs[0].set_data_from_numpy(np.full((1, samples), value, np.float32))
    inputs[1].set_data_from_numpy(np.array([[samples]], np.int32))
    client.infer(
        "asr_streaming",
        inputs,
        sequence_id=stream,
        sequence_start=sequence_start,
        sequence_end=sequence_end,
    )


def _wait_for_live(triton: Triton, count: int) -> None:
    wait_for(
        lambda: all(metric(triton, "earshot_live_streams", stage) == count for stage in STAGES)
    )
