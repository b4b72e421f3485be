"""What the chart's values say about the number of replicas."""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE = 0.1
"""By how much the mean load must miss the threshold before Kubernetes acts."""
FULL = 0.7
"""Above this share of what they admit, replicas are filling up; as in the chart's scaling.yaml."""


@dataclass(frozen=True)
class Scaling:
    """Limits and delays of the scaling."""

    min_replicas: int
    max_replicas: int
    streams_per_replica: int
    """Planned; a replica takes more than that, up to what was measured."""
    threshold: int
    """Mean streams per replica that the scaling aims at."""
    fullness: float
    """Mean share of the streams admitted by those that fill up, at which the scaling aims."""
    start_s: float = 180.0
    """From the decision to the first stream of a replica."""
    drain_s: float = 900.0
    scale_down_s: float = 1800.0
    """How long fewer replicas must have been enough before one goes."""
