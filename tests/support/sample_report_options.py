"""Sample options of a GPU report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from loadtest.gpu.plan import ReportOptions


def options(folder: Path, **changed: Any) -> ReportOptions:
    """Return options of a report on the demo model that writes into `folder`."""
    usual = ReportOptions(
        sizes=("demo",),
        chunks_ms=(560,),
        precision="fp16",
        instances=1,
        own_engines=False,
        max_batch=64,
        processes=1,
        hold_s=5,
        short_hold_s=5,
        long_hold_s=300,
        first_streams=None,
        max_streams=None,
        speech=folder,
        gpu_bytes=0.0,
        work=folder,
        results=folder,
    )
    return replace(usual, **changed)
