"""Define tensor names, shapes and dtypes of heads and of the ensemble that has them.

The ensemble consists of the models of its base, a recognizer that is already in the repository, and
one more stage. Triton runs each model once, however many ensembles it is part of, so streams of the
base and of the heads share batches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from export.spec import STREAMING, StageSpec, TensorSpec
from export.stages.layout import StateLayout
from export.streaming.spec import StreamingSpec

STAGE = "heads"


@dataclass(frozen=True)
class HeadsSpec:
    """Everything that the configs of exported heads contain."""

    name: str
    """Prefix of the names of the stage and of the ensemble."""
    base: StreamingSpec
    base_parameters: Mapping[str, str]
    """The parameters of the base's ensemble, which clients read."""
    labels: Mapping[str, tuple[str, ...]]
    """The labels of each head."""
    state: StateLayout

    @property
    def runtime(self) -> str:
        """Return the runtime of the base."""
        return self.base.runtime

    @property
    def precision(self) -> str:
        """Return the arithmetic of the base; heads are float32."""
        return self.base.precision

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Return the index of each head's most likely label, and its probability."""
        heads = len(self.labels)
        return (
            TensorSpec("LABELS", "INT32", (heads,)),
            TensorSpec("LABEL_PROBS", "FP32", (heads,)),
        )

    @property
    def stage(self) -> StageSpec:
        """Return the model that holds all heads."""
        return StageSpec(STAGE, self.base.encoded, self.outputs, self.state, prefix=self.name)

    @property
    def ensemble(self) -> StageSpec:
        """Return the model that clients call."""
        outputs = (*self.base.ensemble.outputs, *self.outputs)
        return StageSpec(STREAMING, self.base.ensemble.inputs, outputs, prefix=self.name)

    @property
    def steps(self) -> tuple[StageSpec, ...]:
        """Return the models of the ensemble."""
        return (*self.base.steps, self.stage)

    @property
    def models(self) -> list[str]:
        """Return the names of the models that are added to the repository."""
        return [self.stage.name, self.ensemble.name]

    @property
    def client_parameters(self) -> dict[str, str]:
        """Return the parameters that a client reads from the server."""
        heads = {name: list(labels) for name, labels in self.labels.items()}
        return {**self.base_parameters, "heads": json.dumps(heads, ensure_ascii=False)}

    @property
    def manifest(self) -> dict[str, Any]:
        """Return the entries of the manifest about the sizes of the models."""
        return {
            "base": self.base.ensemble.name,
            "chunk_ms": self.base.chunk_ms,
            "heads": {name: list(labels) for name, labels in self.labels.items()},
            "dims": {"state": {self.stage.name: asdict(self.state)}},
        }
