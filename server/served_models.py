"""Find the ensembles that a server serves now: with --model-control they come and go."""

from __future__ import annotations

from typing import Any

from .repository import Ensemble, read_ensembles

_TIMEOUT_S = 5.0
_READY = "READY"


class ServedModels:
    """Tracks the index of Triton's model repository."""

    def __init__(self, client: Any) -> None:
        """Use `client`, a connection of the launcher."""
        self._client = client
        self._configs: dict[tuple[str, str], Any] = {}
        """Configs by model and version."""
        self._ensembles: tuple[Ensemble, ...] = ()

    def look(self) -> tuple[Ensemble, ...]:
        """Return the recognizers that are ready and have stages of their own.

        This takes one short request; the configs of new models are read when they appear.

        Raises:
            InferenceServerException: there is no answer.
            BadRepository: the config of a new model was not written by an export.
        """
        index = self._client.get_model_repository_index(client_timeout=_TIMEOUT_S)
        ready = {(model.name, model.version) for model in index.models if model.state == _READY}
        if ready != self._configs.keys():
            self._configs = {
                key: self._configs[key] if key in self._configs else self._read_config(*key)
                for key in sorted(ready)
            }
            self._ensembles = _complete({name: c for (name, _), c in self._configs.items()})
        return self._ensembles

    def _read_config(self, model: str, version: str) -> Any:
        return self._client.get_model_config(model, version, client_timeout=_TIMEOUT_S).config


def _complete(configs: dict[str, Any]) -> tuple[Ensemble, ...]:
    """Return the recognizers whose stages are all present."""
    return tuple(
        ensemble
        for ensemble in read_ensembles(configs)
        if ensemble.is_recognizer and configs.keys() >= ensemble.stages.keys()
    )
