"""A level in one line, and what a pipeline makes of it."""

from __future__ import annotations

from rich.console import Console

from loadtest.result import Level, Verdict

_console = Console(stderr=True)
_EXIT_CODES: dict[Verdict, int] = {"pass": 0, "fail": 1, "invalid": 3}


def verdict_of(level: Level) -> Verdict:
    """What one level says: nothing if the generator was late, whatever else it shows."""
    if not level.valid:
        return "invalid"
    return "pass" if level.passes else "fail"


def exit_code(verdict: Verdict) -> int:
    """0 pass, 1 fail, 3 invalid; 2 is for what the caller did wrong."""
    return _EXIT_CODES[verdict]


def describe(level: Level) -> str:
    """Streams, latencies, lateness, verdict and reasons."""
    latency, lateness = level.chunk_latency, level.lateness
    final = "" if level.final_latency is None else f"  final p99 {level.final_latency.p99_ms:.0f}"
    return (
        f"{level.streams:5d} streams  {level.hold_s:3.0f} s  "
        f"text p50 {latency.p50_ms:4.0f}  p95 {latency.p95_ms:4.0f}  p99 {latency.p99_ms:4.0f}"
        f"{final} ms  generator late p99 {lateness.p99_ms:.1f} ms  {verdict_of(level).upper()}"
        + "".join(f"\n      {reason}" for reason in level.reasons)
    )


def show(level: Level) -> None:
    """Print it among the diagnostics."""
    _console.print(describe(level), markup=False, highlight=False, soft_wrap=True)
