"""The models of one recognizer, by stage, among all that a server has."""

from __future__ import annotations

from collections.abc import Mapping

STAGES: tuple[str, ...] = ("feature_extractor", "encoder", "decoder")
"""Those with an engine, in the order a chunk takes."""
FUSED: tuple[str, ...] = ("recognizer",)
"""The same in one model."""
TRITON = "triton"
"""What the server process itself is called where CPU time is counted."""
_ROLES = (*STAGES, "detokenizer")
_MODELS = (*_ROLES, *FUSED, *(f"{role}_offline" for role in _ROLES))


def model_name(recognizer: str, stage: str) -> str:
    """What Triton calls a stage of ``recognizer``; "" is the one without a name."""
    return f"{recognizer}_{stage}" if recognizer else stage


def by_stage(values: Mapping[str, float], recognizer: str) -> dict[str, float]:
    """``values`` by model become those of ``recognizer`` by stage, and of `triton` itself."""
    stages = {model_name(recognizer, stage): stage for stage in _MODELS} | {TRITON: TRITON}
    return {stages[model]: value for model, value in values.items() if model in stages}
