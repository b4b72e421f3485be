"""Describe the scaling that the chart's values define."""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE = 0.1
"""Relative deviation of the mean load from the threshold above which Kubernetes acts."""
FULL = 0.7
"""Replicas above this share of their limit count as filling up, as in the chart's scaling.yaml."""


@dataclass(frozen=True)
class Scaling:
    """Limits and delays of the scaling."""

    min_replicas: int
    max_replicas: int
    streams_per_replica: int
    """Planned streams per replica; a replica accepts more, up to the measured capacity."""
    threshold: int
    """Mean streams per replica at which the scaling aims."""
    fullness: float
    """Mean share of the admitted streams, on replicas that are filling up, at which the scaling
    aims."""
    start_s: float = 180.0
    """Time from the decision to the first stream of a replica."""
    drain_s: float = 900.0
    scale_down_s: float = 1800.0
    """Time for which fewer replicas must have been enough before one is removed."""
