"""Test all models of a server repeatedly, including those that were loaded after its start.

If a model that has answered before fails, the server ends. A model that was loaded later and has
never answered is unloaded again, and the others continue.
"""

from __future__ import annotations

from collections.abc import Callable

from tritonclient.utils import InferenceServerException

from .canary import Canary
from .errors import BadRepository, Unhealthy
from .heartbeats import Work
from .launch import Triton
from .local_client import open_client
from .repository import Ensemble
from .sent_canaries import SentCanaries
from .served_models import ServedModels

_PATIENCE_S = 60.0
"""Longer than any chunk waits on a server that is only overloaded."""


class ModelWatch:
    """Keeps `ensembles`, the served ones, and `failure`, the reason why the server must end."""

    def __init__(self, triton: Triton, report: Callable[[str], None]) -> None:
        """Watch `triton`; call `report` for each model that is unloaded."""
        self.ensembles = triton.ensembles
        self.failure: str | None = None
        self._answered = {ensemble.name for ensemble in triton.ensembles}
        self._report = report
        self._reported = ""
        self._metrics = triton.metrics
        self._client = open_client(triton.grpc_url, triton.access)
        self._served = ServedModels(self._client)
        self._canary = Canary(
            self._client,
            triton.canary_secret,
            SentCanaries(triton.heartbeats),
            _PATIENCE_S,
            triton.metrics.observe_canary,
            Work(triton.heartbeats),
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def require_answers(self) -> None:
        """Raise Unhealthy if a model that was loaded at the start does not answer."""
        for ensemble, failure in self._canary.failures(self.ensembles):
            raise Unhealthy(
                f"{failure}; nothing is served: export {ensemble.name} again, or remove its folder "
                "and those of its stages to serve without it"
            )

    def look(self) -> None:
        """Find the models that are served now, and test each of them."""
        self._read_models()
        failed: set[str] = set()
        for ensemble, failure in self._canary.failures(self.ensembles):
            if ensemble.name in self._answered or not self._unload(ensemble, failure):
                self.failure = failure
                return
            failed.add(ensemble.name)
        self._answered = {ensemble.name for ensemble in self.ensembles} - failed

    def _read_models(self) -> None:
        try:
            self.ensembles = self._served.look()
        except InferenceServerException:
            return  # the canaries will show if this is more than a late answer
        except BadRepository as error:
            if self._reported != str(error):
                self._report(f"{error}; until then new models are neither tested nor limited")
            self._reported = str(error)
            return
        self._answered &= {ensemble.name for ensemble in self.ensembles}
        self._metrics.show_models(self.ensembles)

    def _unload(self, ensemble: Ensemble, failure: str) -> bool:
        """Unload a model, with the stages that it does not share; return False if that fails."""
        try:
            self._client.unload_model(ensemble.name, unload_dependents=True)
        except InferenceServerException:
            return False
        self._metrics.count_damaged(ensemble.name)
        self._report(
            f"{failure}; it has never answered since it was loaded, and is unloaded: the others go "
            "on. Export it again, or remove it: the server will not start with it"
        )
        return True
