"""The toy repository with a gate behind its first stage, which a test closes and breaks.

So a test can make chunks wait, or fail, for as long as it needs, on a machine of any speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support.toy_repository import write_config, write_toy_repository

GATE_CONFIG = """
name: "gate"
backend: "python"
max_batch_size: 16
input [ { name: "SUM" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "TOTAL" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""

GATE = """
import time
from pathlib import Path

import triton_python_backend_utils as pb_utils

SIGNS = Path("{signs}")


class TritonPythonModel:
    def execute(self, requests):
        while (SIGNS / "closed").exists():
            time.sleep(0.02)
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        if (SIGNS / "broken").exists():
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("the gate is broken"))
        total = pb_utils.get_input_tensor_by_name(request, "SUM").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("TOTAL", total)])
"""

CHUNK_MS = 80


@dataclass(frozen=True)
class Gate:
    """Signs, for the gate of a repository."""

    repository: Path
    signs: Path

    def set(self, sign: str) -> None:
        """Make chunks wait (`closed`) or fail (`broken`) from now on."""
        (self.signs / sign).touch()

    def clear(self, sign: str) -> None:
        """End that."""
        (self.signs / sign).unlink()


def write_gated_repository(folder: Path) -> Gate:
    """Write the repository, and return its open gate."""
    repository = write_toy_repository(folder / "repository", max_idle_s=600)
    gate = Gate(repository, folder / "signs")
    gate.signs.mkdir()
    write_config(gate.repository, "gate", GATE_CONFIG)
    code = GATE.replace("{signs}", str(gate.signs))
    (gate.repository / "gate" / "1" / "model.py").write_text(code)
    ensemble = gate.repository / "toy_streaming" / "config.pbtxt"
    text = ensemble.read_text().replace('"accumulator"', '"gate"')
    for line in (
        '  { name: "CHUNKS" data_type: TYPE_INT32 dims: [ 1 ] }\n',
        '      output_map { key: "CHUNKS" value: "CHUNKS" }\n',
    ):
        assert line in text
        text = text.replace(line, "")
    text = text.replace("dims: [ 1 ] },\n]", "dims: [ 1 ] }\n]")
    chunk_ms = f'parameters [ {{ key: "chunk_ms" value {{ string_value: "{CHUNK_MS}" }} }} ]\n'
    ensemble.write_text(text + chunk_ms)
    return gate
