"""Send chunks of silence through every instance of every stage, and say what fails.

A model is ready for Triton as soon as it is loaded; only an answer shows that it works. The stages
know these chunks by their mark (`earshot_runtime/canary_mark.py`): they take no caller's slot, and
no limit refuses them.
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

# A server that drains refuses and is not broken, nor is a full one on TensorRT.
_REFUSED = "StatusCode.UNAVAILABLE"
_NO_ANSWER = "StatusCode.DEADLINE_EXCEEDED"
_QUEUE_S = 5.0
"""On native TensorRT there is no slot beside those of the callers: a canary waits for one."""


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
            secret: by which the stages know a canary.
            sent: counts the canaries.
            observe: called with the ensemble and the seconds of each chunk that was answered.
            work: shows which instances the streams prove; those need no canary of their own.
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
                # Once may be bad luck, such as memory that was short for a moment.
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
            unloaded = not self._client.is_model_ready(ensemble.name)  # meanwhile
        except InferenceServerException as failure:
            return failure
        return None if error.status() == _REFUSED or unloaded else error

    def _probe(self, ensemble: Ensemble, streams: int) -> InferenceServerException | None:
        """Run as many streams at once; Triton spreads them over the instances of each stage."""
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
    """Return as many streams as reach all instances, or one if all have worked since the last look.

    One is sent in any case: its time is the chunk latency that the metrics show. Canaries are work,
    too, so that without streams every instance gets one every other time.
    """
    if all(proven[stage] == count for stage, count in ensemble.stages.items() if count > 1):
        return 1
    return ensemble.instances
