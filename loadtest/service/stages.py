"""Select the models of one recognizer, by stage, from all models of a server."""

from __future__ import annotations

from collections.abc import Mapping

STAGES: tuple[str, ...] = ("feature_extractor", "encoder", "decoder")
"""Stages with an engine, in the order in which a chunk passes them."""
FUSED: tuple[str, ...] = ("recognizer",)
"""The same stages as one model."""
TRITON = "triton"
"""Name of the server process itself in CPU times."""
_ROLES = (*STAGES, "detokenizer")
_MODELS = (*_ROLES, *FUSED, *(f"{role}_offline" for role in (*_ROLES, *FUSED)))


def model_name(recognizer: str, stage: str) -> str:
    """Return Triton's name of a stage of `recognizer`; "" is the recognizer without a name."""
    return f"{recognizer}_{stage}" if recognizer else stage


def pipeline_order(model: str) -> tuple[int, str]:
    """Return a key that sorts Triton's models in pipeline order."""
    places = [place for place, stage in enumerate(_MODELS) if model.endswith(stage)]
    return (places[0] if places else len(_MODELS)), model


def by_stage(values: Mapping[str, float], recognizer: str) -> dict[str, float]:
    """Select the values of the models of `recognizer`, by stage, and that of `triton` itself."""
    stages = {model_name(recognizer, stage): stage for stage in _MODELS} | {TRITON: TRITON}
    return {stages[model]: value for model, value in values.items() if model in stages}
