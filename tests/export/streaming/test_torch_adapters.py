"""Adapters of live streams with torch and a model per stage; `fused` is tested with the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.checkpoint import load_checkpoint
from export.formats.packed_adapters import no_adapter
from export.install import replacing
from export.options import ExportOptions, Serving
from export.recordings import load_recordings
from export.streaming.adapter_parity import check_adapters
from export.streaming.export import build_stages, export_streaming, spec_of
from tests.support.random_adapters import merged, random_layers

RANK = 4


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_streams_have_the_tokens_of_their_adapter_with_a_model_per_stage(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    """And others, in the same batches, those of the base."""
    options = ExportOptions(
        str(random_checkpoint),
        tmp_path / "models",
        chunk_ms=320,
        runtime="torch",
        layout="stages",
        serving=Serving(adapters=2, adapter_rank=RANK),
        compare=False,
    )
    checkpoint = load_checkpoint(options.checkpoint)
    with replacing(options.repository) as new:
        export_streaming(checkpoint, options, new, lambda step: None)
    stages = build_stages(checkpoint, options.frames)
    spec = spec_of(checkpoint, stages, options)
    layers = random_layers(stages, 1, RANK)
    plans = zip(spec.stages, (stage.adapter_plan(RANK) for stage in stages), strict=True)
    parts = {stage.role: plan.pack(layers).numpy() for stage, plan in plans if plan}
    speech = [recording.samples[:64_000] for recording in load_recordings()[:3]]
    parity = check_adapters(
        [merged(checkpoint, layers), checkpoint],
        [parts, no_adapter(spec.engines)],
        options.repository,
        spec,
        speech,
    )
    assert parity.chain_token_difference == 0
