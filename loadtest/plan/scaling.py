"""What the chart's values say about the number of replicas."""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE = 0.1
"""By how much the mean load must miss the threshold before Kubernetes acts."""


@dataclass(frozen=True)
class Scaling:
    """Limits and delays of the scaling."""

    min_replicas: int
    max_replicas: int
    streams_per_replica: int
    """Planned; a replica takes more than that, up to what was measured."""
    threshold: int
    """Mean streams per replica that the scaling aims at."""
    start_s: float = 180.0
    """From the decision to the first stream of a replica."""
    drain_s: float = 900.0
    scale_down_s: float = 1800.0
    """How long fewer replicas must have been enough before one goes."""
