"""Adapt Triton's Python backend to `earshot_runtime`, for models with `backend: "earshot"`.

Triton loads this file once per model instance, each in a process of its own, and calls `execute`
with the requests of one batch.
"""

from __future__ import annotations

import gc
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import triton_python_backend_utils as pb_utils
from earshot_runtime.adapter_files import AdapterFiles
from earshot_runtime.adapters import AdapterPools, LoadedAdapters
from earshot_runtime.canary_mark import CanaryMark
from earshot_runtime.chunks import Chunks, Outcome
from earshot_runtime.engine import Engine
from earshot_runtime.engines import open_engine, open_utterance_engine
from earshot_runtime.errors import (
    AdaptersFull,
    ChunkError,
    EarlierStageFailed,
    NotFinite,
    RunFailed,
    Saturated,
    ServerFull,
)
from earshot_runtime.heartbeat import FOLDER_VARIABLE, Heartbeat
from earshot_runtime.housekeeping import Housekeeper
from earshot_runtime.limit import read_limit
from earshot_runtime.sequences import SequenceStage
from earshot_runtime.shared_engine import join_engine
from earshot_runtime.spec import TOKENIZERS, StageSpec
from earshot_runtime.text_stage import TextStage
from earshot_runtime.utterance_engine import Array
from earshot_runtime.utterances import UtteranceStage

if TYPE_CHECKING:  # it imports a library that other stages do not need
    from earshot_runtime.text import Texts

START = pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START
END = pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END
ADAPTER = "adapter"
"""Parameter of a request that starts a stream, and of every request with a file; the client reads
it from the ensemble's config."""


class TritonPythonModel:
    """One instance of one stage; Triton fixes the class name and its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the engine and allocate all memory, or raise StageError."""
        self._spec = StageSpec.from_model_config(json.loads(args["model_config"]))
        self._messages = Path(os.environ[FOLDER_VARIABLE])
        self._lock = threading.Lock()
        self._canary_mark = CanaryMark()
        began_s = time.monotonic()
        folder = Path(args["model_repository"]) / args["model_version"]
        self._housekeeper = None
        if self._spec.sequence is None:
            self._stateless = self._open_stateless(folder)
            metrics = self._stateless.metrics
        else:
            self._streams = self._open_streams(folder)
            metrics = self._streams.metrics
            self._housekeeper = Housekeeper(self._streams.slots, self._lock)
            self._housekeeper.start()
        # Opening the engine includes runs of several sizes, so no batch should take much longer.
        self._heartbeat = Heartbeat(
            self._messages,
            self._spec.model,
            args["model_instance_name"],
            metrics,
            slowest_s=(time.monotonic() - began_s) / 5,
        )
        self._heartbeat.start()
        # All objects created so far live as long as the process: later collections can skip them.
        gc.freeze()

    def execute(
        self, requests: list[pb_utils.InferenceRequest]
    ) -> list[pb_utils.InferenceResponse]:
        """Return the responses to the requests of one batch, in order."""
        try:
            outcomes = self._process(requests)
        except Exception as error:  # else Triton would send the traceback, with paths, to clients
            outcomes = [RunFailed.of(error, len(requests))] * len(requests)
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, (NotFinite, RunFailed)):
                self._log(request, outcome)
        return [self._response(outcome) for outcome in outcomes]

    def _process(self, requests: list[pb_utils.InferenceRequest]) -> Sequence[Outcome]:
        if self._spec.sequence is None:
            adapters = [self._read_adapter(request) for request in requests]
            # A batch of long files takes many runs; each of them shows that the process makes
            # progress.
            inputs = self._read_inputs(requests)
            return self._stateless.process(inputs, adapters, self._heartbeat.batch)
        chunks = self._read_chunks(requests)
        most = read_limit(self._messages, self._spec.model) if any(chunks.starts) else None
        with self._heartbeat.batch(), self._lock:
            return self._streams.process(chunks, time.monotonic(), most_streams=most)

    def finalize(self) -> None:
        """Stop the threads; release objects that would crash if they outlived the interpreter."""
        self._heartbeat.stop()
        if self._housekeeper is not None:
            self._housekeeper.stop()
        gc.collect()

    def _open_streams(self, folder: Path) -> SequenceStage:
        if self._spec.shares_engine:
            engine: Engine = join_engine(folder, self._spec, self._messages)
        else:
            engine = open_engine(folder, self._spec)
        adapters = self._open_adapters(folder.parents[1], engine)
        return SequenceStage(self._spec, engine, adapters, self._open_texts(folder))

    def _open_stateless(self, folder: Path) -> UtteranceStage | TextStage:
        texts = self._open_texts(folder)
        if self._spec.runtime == TOKENIZERS:
            return TextStage(self._spec, texts)
        engine = open_utterance_engine(folder, self._spec)
        adapters = self._open_adapters(folder.parents[1], engine)
        return UtteranceStage(self._spec, engine, adapters, texts)

    def _open_texts(self, folder: Path) -> Texts | None:
        if not self._spec.text_outputs:
            return None
        from earshot_runtime.text import Texts

        return Texts(folder, self._spec)

    def _open_adapters(self, repository: Path, pools: AdapterPools) -> LoadedAdapters | None:
        spec = self._spec.adapters
        return spec and LoadedAdapters(AdapterFiles(repository, spec), pools, spec.capacity)

    def _read_inputs(self, requests: list[pb_utils.InferenceRequest]) -> list[list[Array]]:
        get = pb_utils.get_input_tensor_by_name
        return [
            [get(request, tensor.name).as_numpy() for tensor in self._spec.inputs]
            for request in requests
        ]

    def _read_chunks(self, requests: list[pb_utils.InferenceRequest]) -> Chunks:
        flags = [request.flags() for request in requests]
        get = pb_utils.get_input_tensor_by_name
        return Chunks(
            streams=[request.correlation_id() for request in requests],
            starts=[bool(flag & START) for flag in flags],
            ends=[bool(flag & END) for flag in flags],
            inputs=[
                [get(request, tensor.name).as_numpy() for request in requests]
                for tensor in self._spec.inputs
            ],
            adapters=[
                self._read_adapter(request) if flag & START else ""
                for request, flag in zip(requests, flags, strict=True)
            ],
            canaries=[
                bool(flag & START and flag & END) and self._canary_mark.is_on(request.parameters())
                for request, flag in zip(requests, flags, strict=True)
            ],
        )

    def _read_adapter(self, request: pb_utils.InferenceRequest) -> str:
        """Return the adapter that a starting stream, or any request with a file, asks for."""
        if self._spec.adapters is None:
            return ""
        return str(json.loads(request.parameters() or "{}").get(ADAPTER, ""))

    def _log(self, request: pb_utils.InferenceRequest, failure: ChunkError) -> None:
        """Log a failure of the server itself, with the tag that the client gave the stream."""
        stream = request.request_id() or request.correlation_id()
        pb_utils.Logger.log_error(f"{self._spec.model}: stream {stream}: {failure}")

    def _response(self, outcome: Outcome) -> pb_utils.InferenceResponse:
        if isinstance(outcome, ChunkError):
            error = pb_utils.TritonError(str(outcome), _code(outcome))
            return pb_utils.InferenceResponse(error=error)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, rows)
                for name, rows in zip(self._spec.responses, outcome, strict=True)
            ]
        )


def _code(error: ChunkError) -> int:
    if isinstance(error, (AdaptersFull, Saturated, ServerFull)):
        return pb_utils.TritonError.UNAVAILABLE
    if isinstance(error, (EarlierStageFailed, NotFinite, RunFailed)):
        return pb_utils.TritonError.INTERNAL
    return pb_utils.TritonError.INVALID_ARG
