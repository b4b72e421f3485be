"""Send chunks of silence through every instance of every stage, and say what fails.

A model is ready for Triton as soon as it is loaded; only an answer shows that it works.
"""

from __future__ import annotations

import queue
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tritonclient.utils import InferenceServerException

from .access import Access
from .heartbeats import Work
from .local_client import open_client
from .repository import Ensemble
from .warm_up import bucket_samples, silence

# A full server, or one that drains, refuses and is not broken.
_REFUSED = "StatusCode.UNAVAILABLE"


class Canary:
    """Tests the ensembles of a server that are loaded."""

    def __init__(
        self,
        url: str,
        ensembles: Sequence[Ensemble],
        access: Access,
        timeout_s: float,
        observe: Callable[[str, float], None] = lambda model, took_s: None,
        work: Work | None = None,
    ) -> None:
        """Connect.

        Args:
            observe: called with the ensemble and the seconds of each chunk that was answered.
            work: shows which instances the streams prove; those need no canary of their own.
        """
        self._observe = observe
        self._work = work
        self._client = open_client(url, access)
        self._timeout_s = timeout_s
        self._ensembles = ensembles
        self._inputs: dict[str, list[Any]] = {}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def failure(self) -> str | None:
        """Return the first failure of a stage, None if all answer."""
        try:
            proven = self._work.look() if self._work else Counter[str]()
            ready = [x for x in self._ensembles if self._client.is_model_ready(x.name)]
            for ensemble in ready:
                began_s = time.monotonic()
                error = self._probe(ensemble, _canaries(ensemble, proven))
                if error is None:
                    self._observe(ensemble.name, time.monotonic() - began_s)
                elif error.status() != _REFUSED:
                    return f"{ensemble.name} does not answer a chunk of silence: {error}"
        except InferenceServerException as error:
            return f"no answer: {error}"
        return None

    def _probe(self, ensemble: Ensemble, streams: int) -> InferenceServerException | None:
        """Run as many streams at once; Triton spreads them over the instances of each stage."""
        inputs = self._inputs.get(ensemble.name) or self._silence(ensemble)
        answers: queue.SimpleQueue[InferenceServerException | None] = queue.SimpleQueue()
        for _ in range(streams):
            stream: dict[str, Any] = {
                "sequence_id": secrets.randbits(62) + 1,
                "sequence_start": True,
                "sequence_end": True,
            }
            self._client.async_infer(
                ensemble.name,
                inputs,
                lambda result, error: answers.put(error),
                client_timeout=self._timeout_s,
                **(stream if ensemble.max_streams else {}),
            )
        errors = [answers.get() for _ in range(streams)]
        return next((error for error in errors if error is not None), None)

    def _silence(self, ensemble: Ensemble) -> list[Any]:
        samples = None if ensemble.max_streams else bucket_samples(self._client, ensemble.name)[0]
        inputs = self._inputs[ensemble.name] = silence(self._client, ensemble.name, samples)
        return inputs


def _canaries(ensemble: Ensemble, proven: Counter[str]) -> int:
    """Return as many streams as reach all instances, or one if all have worked since the last look.

    One is sent in any case: its time is the chunk latency that the metrics show. Canaries are work,
    too, so that without streams every instance gets one every other time.
    """
    if all(proven[stage] == count for stage, count in ensemble.stages.items() if count > 1):
        return 1
    return ensemble.instances
