"""Write the common parts of Triton model configs, in protobuf's text format."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Mapping, Sequence

from export.spec import StageSpec, TensorSpec

HEADER = """\
# {title}
# Written by `python -m export` from {source}; change it there.
"""
"""First lines of every config."""


def ensemble_scheduling(steps: Sequence[StageSpec], ensemble: StageSpec) -> str:
    """Return the steps of an ensemble, in which tensors keep their names.

    Outputs that neither a step nor a client uses are left out, so that Triton drops them.
    """
    taken = {tensor.name for step in steps for tensor in step.inputs}
    taken |= {tensor.name for tensor in ensemble.outputs}
    texts = ",\n".join(_step(step, taken) for step in steps)
    return f"ensemble_scheduling {{\n  step [\n{texts}\n  ]\n}}"


def _step(stage: StageSpec, taken: Container[str]) -> str:
    outputs = (tensor.name for tensor in stage.responses if tensor.name in taken)
    maps = [
        *(_mapping("input_map", tensor.name) for tensor in stage.inputs),
        *(_mapping("output_map", name) for name in outputs),
    ]
    lines = "\n".join(f"      {line}" for line in maps)
    return f'    {{\n      model_name: "{stage.name}" model_version: -1\n{lines}\n    }}'


def _mapping(kind: str, name: str) -> str:
    return f'{kind} {{ key: "{name}" value: "{name}" }}'


def tensor_list(kind: str, tensors: Iterable[TensorSpec], ragged: bool = False) -> str:
    """Return the `input` or `output` of a model.

    Args:
        ragged: allows requests of different shapes in one batch.
    """
    batching = " allow_ragged_batch: true" if ragged else ""
    lines = ",\n".join(
        f'  {{ name: "{tensor.name}" data_type: {_data_type(tensor.dtype)} '
        f"dims: [ {', '.join(map(str, tensor.dims))} ]{batching} }}"
        for tensor in tensors
    )
    return f"{kind} [\n{lines}\n]"


def _data_type(dtype: str) -> str:
    return "TYPE_STRING" if dtype == "BYTES" else f"TYPE_{dtype}"


def parameter_list(parameters: Mapping[str, str]) -> str:
    """Return the `parameters` of a model, in the given order."""
    entries = "\n".join(
        f'parameters {{ key: "{key}" value: {{ string_value: {_quoted(value)} }} }}'
        for key, value in parameters.items()
    )
    return entries + "\n"


def adapter_parameters(
    stage: StageSpec, capacity: int, ensemble: str, base_sha256: str
) -> dict[str, str]:
    """Return the parameters of a stage about its adapters; empty if it takes none.

    Args:
        capacity: number of adapters in memory at once.
        ensemble: suffix of the names of the adapters' ensembles.
        base_sha256: hash of the base weights for which they are installed.
    """
    if not stage.adapters:
        return {}
    layouts = stage.adapters.values()
    return {
        "adapters": str(capacity),
        "adapter_parts": ", ".join(stage.adapters),
        "adapter_rows": ", ".join(str(layout.rows) for layout in layouts),
        "adapter_widths": ", ".join(str(layout.width) for layout in layouts),
        "adapter_ensembles": ensemble,
        "adapter_base": base_sha256,
    }


def read_parameters(config: str) -> dict[str, str]:
    """Return the `parameters` of a config that `parameter_list` has written."""
    return {key: json.loads(value) for key, value in _PARAMETER.findall(config)}


_PARAMETER = re.compile(r'^parameters { key: "(.+?)" value: { string_value: (".*") } }$', re.M)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
