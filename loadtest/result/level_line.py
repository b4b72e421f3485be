"""Describe a level in one line of text."""

from __future__ import annotations

from rich.console import Console

from loadtest.result.document import Level

_console = Console(stderr=True)


def describe(level: Level) -> str:
    """Return the streams, latencies, lateness, verdict and reasons of `level`."""
    latency, lateness = level.chunk_latency, level.lateness
    final = "" if level.final_latency is None else f"  final p99 {level.final_latency.p99_ms:.0f}"
    return (
        f"{level.streams:5d} streams  {level.hold_s:3.0f} s  "
        f"text p50 {latency.p50_ms:4.0f}  p95 {latency.p95_ms:4.0f}  p99 {latency.p99_ms:4.0f}"
        f"{final} ms  generator late p99 {lateness.p99_ms:.1f} ms  {level.verdict.upper()}"
        + "".join(f"\n      {reason}" for reason in level.reasons)
    )


def print_level(level: Level) -> None:
    """Print `level` on stderr."""
    _console.print(describe(level), markup=False, highlight=False, soft_wrap=True)
