"""List the recognizers of a server, and load or unload one while the others serve.

A recognizer is one or two ensembles and their stages. Triton loads the stages with their ensemble.
It unloads them with the ensemble (`unload_dependents`) only if they were loaded that way rather
than at startup, so here they are unloaded one by one. Unloading takes effect at once and breaks off
open streams; so does reloading a stage, or loading a new version of it. Therefore a new checkpoint
gets a new name, and the old one is retired when no stream has been open for a while, according to
the metric `earshot_live_streams` of the bundled backend, and no request has been answered except
those with which the server tests itself.
"""

from __future__ import annotations

import math
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from ._errors import EarshotError, UnsupportedServer
from ._failures import connect_error
from ._handshake import READY_STATE, UNNAMED, recognizers
from ._server_info import OFFLINE, STREAMING, served_name

LOAD_TIMEOUT_S = 600.0
UNLOAD_TIMEOUT_S = 120.0
"""Triton first completes the requests in flight."""
_POLL_S = 0.2
_ALIVE = (READY_STATE, "LOADING", "UNLOADING")

# Triton's message if its set of models is fixed.
_NO_CONTROL = re.compile(r"load / unload is not allowed")
_SAMPLE = re.compile(
    r"^earshot_(?P<metric>live_streams|adapter_streams|adapters)"
    r"\{(?P<labels>[^}]*)\} (?P<value>\S+)$",
    re.MULTILINE,
)
_CANARIES = re.compile(
    r'^earshot_canary_requests_total\{model="(?P<model>[^"]*)"\} (?P<value>\S+)$', re.MULTILINE
)
_LABEL = re.compile(r'\b(?P<name>model|adapter)="(?P<value>[^"]*)"')

# The generated protobuf classes have no types.
_pb: Any = service_pb2

Report = Callable[[int], None]
"""Called with the number of open streams."""


@dataclass(frozen=True)
class ModelStatus:
    """The state of one ensemble of the repository, loaded or not."""

    name: str
    """Name of the recognizer, as `--model` takes it."""
    mode: str
    """`streaming` or `offline`."""
    state: str
    """`READY`, `LOADING`, `UNLOADING`, `UNAVAILABLE`, or `NOT LOADED`."""
    reason: str
    checkpoint: str
    """Empty unless the ensemble is ready."""
    precision: str
    chunk_ms: str
    """Empty unless the ensemble is ready and streams."""


class Repository:
    """Calls Triton's model repository API over one channel."""

    def __init__(self, stub: Any, target: str, connect_s: float) -> None:
        self.host = target.rpartition(":")[0]
        self._stub = stub
        self._target = target
        self._connect_s = connect_s

    def statuses(self) -> list[ModelStatus]:
        """Return the state of every ensemble of the repository, sorted by name."""
        states = self._states()
        return [
            self._status(name, role, *states[served_name(name, role)])
            for name in recognizers(states)
            for role in (STREAMING, OFFLINE)
            if served_name(name, role) in states
        ]

    def load(self, name: str) -> None:
        """Load a recognizer and return when it serves; raise UnsupportedServer if it fails."""
        states = self._states()
        ensembles = self._ensembles(name, states)
        if all(states[ensemble][0] == READY_STATE for ensemble in ensembles):
            raise UnsupportedServer(
                f"'{name or UNNAMED}' is already loaded. Give a new checkpoint a new name "
                "(python -m export --name ...): loading it over the old one would break off "
                "open streams"
            )
        try:
            for ensemble in ensembles:
                if states[ensemble][0] != READY_STATE:
                    request = _pb.RepositoryModelLoadRequest(model_name=ensemble)
                    self._call("RepositoryModelLoad", request)
        except EarshotError:
            # Triton keeps the stages that it could load.
            self._unload([m for m in self._alive() if states.get(m, ("", ""))[0] not in _ALIVE])
            raise

    def unload(self, name: str) -> None:
        """Unload a recognizer at once and return when it is gone; open streams break off."""
        ensembles = self._loaded(name)
        others = self._other_ensembles(ensembles)
        models = [*ensembles, *sorted(self._members(ensembles) - self._members(others))]
        self._unload(models)

    def retire(
        self, name: str, metrics_url: str, quiet_s: float, timeout_s: float, report: Report
    ) -> None:
        """Unload a recognizer once it has had no open stream and no request for `quiet_s`.

        Args:
            name: The recognizer; "" is the unnamed one.
            metrics_url: The URL of the server's metrics.
            quiet_s: Time for which the recognizer must be idle.
            timeout_s: Time to wait for that at most.
            report: Called with the number of open streams.

        Raises:
            UnsupportedServer: It was not idle within `timeout_s`; nothing was unloaded.
        """
        ensembles = self._loaded(name)
        deadline_s = time.monotonic() + timeout_s
        most = -math.inf
        idle_since_s = time.monotonic()
        while time.monotonic() - idle_since_s < quiet_s:
            live, answered = self._use(name, ensembles, metrics_url)
            report(live)
            if live or answered > most:
                idle_since_s = time.monotonic()
            most = max(most, answered)
            if idle_since_s > deadline_s:
                raise UnsupportedServer(
                    f"'{name or UNNAMED}' is still in use after {timeout_s:g} s ({live} open "
                    "streams); nothing was unloaded. Move its clients to another recognizer "
                    "(client.refresh() or --model), then try again"
                )
            time.sleep(_POLL_S)
        self.unload(name)

    def _use(self, name: str, ensembles: list[str], metrics_url: str) -> tuple[int, int]:
        """Return the number of open streams, and that of answered requests from clients.

        The second number is too low while one of the server's own test requests is in flight: the
        server counts them before it sends them, and that count is read last.
        """
        answered = sum(map(self._answered, ensembles))
        metrics = fetch_metrics(metrics_url)
        return self.live_streams(name, metrics), answered - count_canaries(metrics, ensembles)

    def live_streams(self, name: str, metrics: str) -> int:
        """Return the number of open streams in a page of metrics: the highest of all stages.

        Stages that other loaded recognizers share count only if the recognizer has no other ones.
        """
        ensemble = served_name(name, STREAMING)
        if self._states().get(ensemble, ("", ""))[0] != READY_STATE:
            return 0
        members = self._members([ensemble])
        own = members - self._members(self._other_ensembles([ensemble]))
        live = StageStreams(metrics, own or members)
        if not live.streams:
            raise UnsupportedServer(
                f"the metrics of {self._target} have no earshot_live_streams of "
                f"'{name or UNNAMED}', so the end of its last stream is unknown; "
                "`earshot models unload` unloads it at once"
            )
        return live.of_adapter(self._parameters(ensemble).get("adapter", ""))

    def _answered(self, ensemble: str) -> int:
        """Return the number of answered requests; files have no streams that could be counted."""
        request = _pb.ModelStatisticsRequest(name=ensemble)
        stats = [
            entry.inference_stats for entry in self._call("ModelStatistics", request).model_stats
        ]
        return sum(entry.success.count + entry.fail.count for entry in stats)

    def _status(self, name: str, role: str, state: str, reason: str) -> ModelStatus:
        parameters: dict[str, str] = {}
        if state == READY_STATE:
            parameters = self._parameters(served_name(name, role))
        return ModelStatus(
            name=name or UNNAMED,
            mode="streaming" if role == STREAMING else "offline",
            state=state or "NOT LOADED",
            reason=reason,
            checkpoint=parameters.get("checkpoint", ""),
            precision=parameters.get("precision", ""),
            chunk_ms=parameters.get("chunk_ms", ""),
        )

    def _parameters(self, ensemble: str) -> dict[str, str]:
        config = self._call("ModelConfig", _pb.ModelConfigRequest(name=ensemble)).config
        return {key: value.string_value for key, value in config.parameters.items()}

    def _loaded(self, name: str) -> list[str]:
        """Return the loaded ensembles of a recognizer; raise UnsupportedServer if there is none."""
        states = self._states()
        loaded = [e for e in self._ensembles(name, states) if states[e][0] == READY_STATE]
        if not loaded:
            raise UnsupportedServer(f"'{name or UNNAMED}' is not loaded")
        return loaded

    def _ensembles(self, name: str, states: dict[str, tuple[str, str]]) -> list[str]:
        there = [served_name(name, role) for role in (STREAMING, OFFLINE)]
        there = [ensemble for ensemble in there if ensemble in states]
        if not there:
            known = ", ".join(known or UNNAMED for known in recognizers(states)) or "none"
            raise UnsupportedServer(
                f"the repository of {self._target} has no recognizer '{name or UNNAMED}'; it has "
                f"{known}: export it there with `python -m export --name`"
            )
        return there

    def _other_ensembles(self, ensembles: list[str]) -> list[str]:
        """Return the loaded ensembles that are not among `ensembles`."""
        states = self._states()
        return [
            model
            for other in recognizers(states)
            for model in self._ensembles(other, states)
            if model not in ensembles and states[model][0] == READY_STATE
        ]

    def _unload(self, models: list[str]) -> None:
        for model in models:
            self._call("RepositoryModelUnload", _pb.RepositoryModelUnloadRequest(model_name=model))
        deadline_s = time.monotonic() + UNLOAD_TIMEOUT_S
        while left := self._alive().intersection(models):
            if time.monotonic() > deadline_s:
                raise UnsupportedServer(
                    f"{', '.join(sorted(left))} did not unload within {UNLOAD_TIMEOUT_S:g} s"
                )
            time.sleep(_POLL_S)

    def _alive(self) -> set[str]:
        return {model for model, (state, _) in self._states().items() if state in _ALIVE}

    def _members(self, ensembles: list[str]) -> set[str]:
        """Return the stages of loaded ensembles."""
        requests = [_pb.ModelConfigRequest(name=ensemble) for ensemble in ensembles]
        configs = [self._call("ModelConfig", request).config for request in requests]
        return {step.model_name for c in configs for step in c.ensemble_scheduling.step}

    def _states(self) -> dict[str, tuple[str, str]]:
        """Return the state and reason of every model; one loaded version makes a model loaded."""
        index = self._call("RepositoryIndex", _pb.RepositoryIndexRequest())
        states: dict[str, tuple[str, str]] = {}
        for entry in index.models:
            if states.get(entry.name, ("", ""))[0] not in _ALIVE:
                states[entry.name] = entry.state, entry.reason
        return states

    def _call(self, method: str, request: Any) -> Any:
        loads = method == "RepositoryModelLoad"
        timeout_s = LOAD_TIMEOUT_S if loads else self._connect_s
        try:
            return getattr(self._stub, method)(request, timeout=timeout_s)
        except grpc.RpcError as failure:
            raise self._error(failure, timeout_s) from failure

    def _error(self, failure: Any, timeout_s: float) -> EarshotError:
        details = failure.details() or ""
        if _NO_CONTROL.search(details):
            return UnsupportedServer(
                f"{self._target} serves a fixed set of models; start it with "
                "`python -m server --model-control` (Triton: --model-control-mode=explicit)"
            )
        if failure.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT):
            return UnsupportedServer(f"{self._target} refused the request: {details}")
        return connect_error(failure, self._target, timeout_s)


class StageStreams:
    """The open streams of some stages, which adapters share with their base checkpoint."""

    def __init__(self, metrics: str, stages: set[str]) -> None:
        self.streams: Counter[str] = Counter()
        """By stage."""
        self._adapted: Counter[tuple[str, str]] = Counter()
        """By stage and adapter."""
        self._tell_adapters: set[str] = set()
        """Stages that report the adapter of a stream."""
        for sample in _SAMPLE.finditer(metrics):
            labels = {label["name"]: label["value"] for label in _LABEL.finditer(sample["labels"])}
            stage, count = labels.get("model", ""), round(float(sample["value"]))
            if stage not in stages:
                continue
            if sample["metric"] == "live_streams":
                self.streams[stage] += count
            elif sample["metric"] == "adapters":
                self._tell_adapters.add(stage)
            else:
                self._adapted[stage, labels["adapter"]] += count

    def of_adapter(self, adapter: str) -> int:
        """Return the number of streams with an adapter, or without one: the highest of a stage."""
        if adapter:
            return max(
                (count for key, count in self._adapted.items() if key[1] == adapter), default=0
            )
        others = Counter[str]()
        for (stage, _), count in self._adapted.items():
            others[stage] += count
        stages = self._tell_adapters or set(self.streams)
        return max(self.streams[stage] - others[stage] for stage in stages)


def count_canaries(metrics: str, ensembles: list[str]) -> int:
    """Return the number of requests that the server has sent to ensembles to test itself."""
    counts = {sample["model"]: float(sample["value"]) for sample in _CANARIES.finditer(metrics)}
    return round(sum(counts.get(ensemble, 0.0) for ensemble in ensembles))


def fetch_metrics(metrics_url: str) -> str:
    """Return the page of metrics; raise UnsupportedServer if there is none."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(metrics_url, timeout=5) as response:
            return response.read().decode()
    except (OSError, ValueError) as error:
        raise UnsupportedServer(
            f"no metrics at {metrics_url} ({error}): pass their address with --metrics-url"
        ) from error
