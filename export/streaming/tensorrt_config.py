"""Triton configs of TensorRT stages: state in Triton, on the GPU; every knob with its reason."""

from __future__ import annotations

from export.options import Serving
from export.spec import StageSpec
from export.stages.layout import StateLayout

QUEUE_DELAY_MS = {"feature_extractor": 5, "encoder": 0, "decoder": 0}
"""The first stage collects a batch, which then stays together on its way through the others."""


def sequence_batching(stage: StageSpec, serving: Serving) -> str:
    """The block `sequence_batching` of a stage."""
    assert stage.state is not None
    delay_ms = QUEUE_DELAY_MS[stage.role]
    delay_reason = (
        "Chunks come one by one: a short wait makes batches, which the other stages then keep."
        if delay_ms
        else "What comes together has been collected by the first stage: never wait for more."
    )
    return f"""\
sequence_batching {{
  # A client that vanishes without END frees its place after this long.
  max_sequence_idle_microseconds: {serving.sequence_idle_ms * 1000}
  # Oldest, not direct: any streams that have a chunk make a batch. Direct would pin each stream to
  # a row of the batch, and compute the rows of those that have none.
  oldest {{
    # As many as the state pool on the GPU holds (the server sizes it from here). One more would
    # push a state into host memory, and every step of that stream through the bus.
    max_candidate_sequences: {serving.max_streams}
    # A full batch goes at once: the engine is tuned for it.
    preferred_batch_size: [ {serving.max_batch_size} ]
    # {delay_reason}
    max_queue_delay_microseconds: {delay_ms * 1000}
  }}
{_implicit_state(stage.state)}}}
"""


def instances() -> str:
    """The block `instance_group`, and why there is no `model_warmup`."""
    return """\
# One instance: a stream belongs to the instance that it began on, so that a second one would halve
# the batches, and the backend overlaps the copies of one batch with the work of another by itself.
# One GPU: the state pool is sized for one; more GPUs are more replicas.
instance_group [ { kind: KIND_GPU count: 1 gpus: [ 0 ] } ]
# No model_warmup: Triton runs it beside the sequence batcher, where there is no implicit state, and
# a model whose warm-up fails does not load. The server warms every batch bucket with real streams.
"""


def parameters(serving: Serving) -> dict[str, str]:
    """What the server reads to size its pools."""
    return {"max_streams": str(serving.max_streams)}


def _implicit_state(state: StateLayout) -> str:
    kind = f"data_type: TYPE_{state.dtype} dims: [ {state.size} ]"
    return f"""\
  # One flat state: several would be paired by the sorted order of their names.
  state [
    {{
      input_name: "STATE" output_name: "NEXT_STATE" {kind}
      # Without it a stream starts on whatever lay in memory.
      initial_state: {{ name: "zero" {kind} zero_data: true }}
      # Halves the memory per stream. Safe although the engine reads STATE while it writes
      # NEXT_STATE: those are the backend's own batch buffers, gathered from the streams' buffers
      # before the engine runs and scattered back after it has ended.
      use_same_buffer_for_input_output: true
    }}
  ]
"""
