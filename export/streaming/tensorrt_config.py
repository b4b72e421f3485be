"""Write the parts of Triton configs that are specific to TensorRT: implicit state on the GPU."""

from __future__ import annotations

from export.options import Serving
from export.spec import StageSpec
from export.stages.layout import StateLayout

QUEUE_DELAY_MS = {"feature_extractor": 5, "encoder": 0, "decoder": 0}
"""The first stage collects a batch, which stays together through the other stages."""


def sequence_batching(stage: StageSpec, serving: Serving) -> str:
    """Return the block `sequence_batching` of a stage."""
    assert stage.state is not None
    delay_ms = QUEUE_DELAY_MS[stage.role]
    delay_reason = (
        "Chunks arrive one by one: a short wait makes batches, which the other stages then keep."
        if delay_ms
        else "The first stage has collected the batch: never wait for more."
    )
    return f"""\
sequence_batching {{
  # A client that disappears without END frees its slot after this time.
  max_sequence_idle_microseconds: {serving.sequence_idle_ms * 1000}
  # Oldest, not direct: any streams that have a chunk make a batch. Direct would assign each stream
  # to a row of the batch, and compute the rows of streams without a chunk.
  oldest {{
    # As many as the state pool on the GPU holds (the server computes its size from this). The state
    # of one more would go to host memory, and every chunk of its stream would copy it.
    max_candidate_sequences: {serving.max_streams}
    # A full batch starts at once: the engine is tuned for it.
    preferred_batch_size: [ {serving.max_batch_size} ]
    # {delay_reason}
    max_queue_delay_microseconds: {delay_ms * 1000}
  }}
{_implicit_state(stage.state)}}}
"""


def instances() -> str:
    """Return the block `instance_group`, with the reason for having no `model_warmup`."""
    return """\
# One instance: a stream stays on the instance that it began on, so a second one would halve the
# batches, and the backend already overlaps the copies of one batch with the work of another.
# One GPU: the state pool is computed for one; for more GPUs run more replicas.
instance_group [ { kind: KIND_GPU count: 1 gpus: [ 0 ] } ]
# No model_warmup: Triton runs it outside the sequence batcher, without implicit state, and a model
# whose warm-up fails does not load. The server warms up every batch size with real streams.
"""


def parameters(serving: Serving) -> dict[str, str]:
    """Return the parameters from which the server computes the sizes of its pools."""
    return {"max_streams": str(serving.max_streams)}


def _implicit_state(state: StateLayout) -> str:
    kind = f"data_type: TYPE_{state.dtype} dims: [ {state.size} ]"
    return f"""\
  # One flat state: Triton would pair several by the sorted order of their names.
  state [
    {{
      input_name: "STATE" output_name: "NEXT_STATE" {kind}
      # Without it a stream starts with uninitialized memory.
      initial_state: {{ name: "zero" {kind} zero_data: true }}
      # Halves the memory per stream. Safe although the engine reads STATE while it writes
      # NEXT_STATE: these are the backend's own batch buffers, gathered from the streams' buffers
      # before the engine runs and scattered to them after it has ended.
      use_same_buffer_for_input_output: true
    }}
  ]
"""
