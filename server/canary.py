"""Send chunks of silence through every instance of every stage, and report failures.

Triton calls a model ready as soon as it is loaded; only an answer shows that it works. The stages
recognize these chunks by their mark (`earshot_runtime/canary_mark.py`): they take no slot of a
client, and no limit refuses them.
"""

from __future__ import annotations

import queue
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tritonclient.utils import InferenceServerException

from .backends.earshot.earshot_runtime.canary_mark import CANARY
from .heartbeats import Work
from .repository import Ensemble
from .sent_canaries import SentCanaries
from .warm_up import bucket_samples, silence

# The code of a server that drains, or that is full on TensorRT: neither of them is broken.
_REFUSED = "StatusCode.UNAVAILABLE"
_NO_ANSWER = "StatusCode.DEADLINE_EXCEEDED"
_QUEUE_S = 5.0
"""On native TensorRT there is no spare slot: a canary waits this long for one."""


class Canary:
    """Tests ensembles of a server."""

    def __init__(
        self,
        client: Any,
        secret: str,
        sent: SentCanaries,
        timeout_s: float,
        observe: Callable[[str, float], None] = lambda model, took_s: None,
        work: Work | None = None,
    ) -> None:
        """Send over `client`, a connection of the launcher.

        Args:
            secret: the secret by which the stages recognize a canary.
            sent: counts the canaries.
            observe: called with the ensemble and the seconds of each chunk that was answered.
            work: shows which instances streams have proved to work; those need no canary.
        """
        self._client = client
        self._mark = {CANARY: secret}
        self._sent = sent
        self._observe = observe
        self._work = work
        self._timeout_s = timeout_s
        self._inputs: dict[str, list[Any]] = {}

    def failures(self, ensembles: Sequence[Ensemble]) -> Iterator[tuple[Ensemble, str]]:
        """Test `ensembles` one by one; yield those that fail, with the cause."""
        proven = self._work.look() if self._work else Counter[str]()
        names = {ensemble.name for ensemble in ensembles}
        self._inputs = {name: self._inputs[name] for name in self._inputs.keys() & names}
        for ensemble in ensembles:
            streams = _canaries(ensemble, proven)
            error = self._failure(ensemble, streams)
            if error is not None and error.status() != _NO_ANSWER:
                # A single failure may have a passing cause, such as a short lack of memory.
                error = self._failure(ensemble, streams)
            if error is not None:
                yield ensemble, f"{ensemble.name} does not answer a chunk of silence: {error}"

    def _failure(self, ensemble: Ensemble, streams: int) -> InferenceServerException | None:
        began_s = time.monotonic()
        try:
            error = self._probe(ensemble, streams)
            if error is None:
                self._observe(ensemble.name, time.monotonic() - began_s)
                return None
            unloaded = not self._client.is_model_ready(ensemble.name)  # in the meantime
        except InferenceServerException as failure:
            return failure
        return None if error.status() == _REFUSED or unloaded else error

    def _probe(self, ensemble: Ensemble, streams: int) -> InferenceServerException | None:
        """Run `streams` streams at once; Triton spreads them over the instances of each stage."""
        inputs = self._inputs.get(ensemble.name) or self._silence(ensemble)
        answers: queue.SimpleQueue[InferenceServerException | None] = queue.SimpleQueue()
        self._sent.add(ensemble.name, streams)
        for _ in range(streams):
            self._client.async_infer(
                ensemble.name,
                inputs,
                lambda result, error: answers.put(error),
                client_timeout=self._timeout_s,
                parameters=self._mark,
                **(_whole_stream() if ensemble.max_streams else {}),
            )
        errors = [answers.get() for _ in range(streams)]
        return next((error for error in errors if error is not None), None)

    def _silence(self, ensemble: Ensemble) -> list[Any]:
        samples = None if ensemble.max_streams else bucket_samples(self._client, ensemble.name)[0]
        inputs = self._inputs[ensemble.name] = silence(self._client, ensemble.name, samples)
        return inputs


def _whole_stream() -> dict[str, Any]:
    return {
        "sequence_id": secrets.randbits(62) + 1,
        "sequence_start": True,
        "sequence_end": True,
        "timeout": round(_QUEUE_S * 1e6),
    }


def _canaries(ensemble: Ensemble, proven: Counter[str]) -> int:
    """Return the number of canaries that reach all instances, or 1 if all are proved to work.

    One is sent in any case: its duration is the chunk latency in the metrics. Canaries prove
    instances, too, so that without streams every instance gets one every other time.
    """
    if all(proven[stage] == count for stage, count in ensemble.stages.items() if count > 1):
        return 1
    return ensemble.instances
