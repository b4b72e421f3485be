"""Compute the chart's values that a plan determines."""

from __future__ import annotations

import math

from loadtest.plan.capacity import CapacityPlan
from loadtest.plan.scaling import FULL, TOLERANCE, Scaling

_SMALLEST = 2
"""Least number of replicas, so that one may fail or be replaced."""


def scaling_of(plan: CapacityPlan) -> Scaling:
    """Return the scaling that keeps every replica within its planned number of streams."""
    planned = plan.streams_per_unit_planned
    return Scaling(
        min_replicas=min(_SMALLEST, max(1, plan.replicas)),
        max_replicas=max(1, plan.replicas),
        streams_per_replica=planned,
        # Kubernetes does not act until the mean exceeds the threshold by its tolerance.
        threshold=max(1, math.floor(planned / (1 + TOLERANCE))),
        fullness=_fullness(plan.headroom),
    )


def _fullness(headroom: float) -> float:
    """Return the fullness at which Kubernetes acts midway between planned load and refusals."""
    return max(FULL, math.floor(100 * (1 - headroom / 2) / (1 + TOLERANCE)) / 100)


def chart_values(plan: CapacityPlan, result: str) -> str:
    """Return YAML for `helm install --values`, with its origin as comments."""
    scaling = scaling_of(plan)
    lines = [
        f"# Written by `python -m loadtest plan` from {result}:",
        f"# {plan.streams_per_unit_measured:g} streams per {plan.unit} measured.",
    ]
    if plan.cost_per_hour is not None:
        lines.append(f"# All replicas cost {plan.cost_per_hour:,.2f} per hour.")
    if plan.cost_per_stream_hour is not None:
        lines.append(f"# A stream costs {plan.cost_per_stream_hour:.5f} per hour at the peak.")
    lines += [f"# - {assumption}" for assumption in plan.assumptions]
    lines += [
        "scaling:",
        f"  minReplicas: {scaling.min_replicas}",
        f"  maxReplicas: {scaling.max_replicas}",
        f"  streamsPerReplica: {scaling.streams_per_replica}",
        f"  threshold: {scaling.threshold}",
        f"  fullness: {scaling.fullness:g}",
    ]
    if plan.admission is not None:
        lines += ["server:", f"  chunkShare: {plan.admission.chunk_share:g}"]
    return "\n".join(lines) + "\n"
