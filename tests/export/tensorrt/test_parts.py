"""Engines of the parts that the bundled backend runs: a decoder in rounds, all stages as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.checkpoint import Checkpoint
from export.options import ExportOptions
from export.stages.half import half_stages
from export.streaming.export import build_stages, spec_of
from export.tensorrt.engine import build_engine
from export.tensorrt.export_rtx import members_of, part_profile, write_parts
from export.tensorrt.targets import NamedGpus
from tests.support.engine_table import RecordEngine

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("precision", "layout"),
    [
        ("fp16", "fused"),
        pytest.param("bf16", "stages", marks=SLOW),
        pytest.param("fp32", "fused", marks=SLOW),
        pytest.param("bf16", "fused", marks=SLOW),
        pytest.param("fp16", "stages", marks=SLOW),
    ],
)
def test_an_engine_is_built_of_every_part_of_the_last_model(
    record_engine: RecordEngine,
    many_tokens: Checkpoint,
    tmp_path: Path,
    precision: str,
    layout: str,
) -> None:
    """The decoder of the layout `stages`, or the one model of the layout `fused`."""
    options = ExportOptions(
        "mine", chunk_ms=80, runtime="tensorrt-rtx", precision=precision, layout=layout
    )
    stages = half_stages(build_stages(many_tokens, options.frames), precision)
    spec = spec_of(many_tokens, stages, options)
    engine, members = spec.engines[-1], members_of(stages, spec)[-1]
    for part in write_parts(tmp_path, members, engine, spec, {}, lambda step: None):
        path = tmp_path / engine.name / "1" / f"{part.name}.onnx"
        profiles = [part_profile(part, engine, spec)]
        facts = build_engine(path, engine, profiles, NamedGpus(("sm89",)))
        assert facts.plan_bytes == path.with_suffix(".engine").stat().st_size
        record_engine(f"{engine.name}/{part.name}", precision, facts)
