"""Write the Triton model configs of heads from a `HeadsSpec`."""

from __future__ import annotations

from export.heads.spec import HeadsSpec
from export.pbtxt import HEADER, ensemble_scheduling, parameter_list, tensor_list
from export.streaming.config import bundled_config


def config_files(spec: HeadsSpec) -> dict[str, str]:
    """Return the text of every config, by its path in the repository."""
    return {
        f"{spec.stage.name}/config.pbtxt": bundled_config(spec.stage, spec.base),
        f"{spec.ensemble.name}/config.pbtxt": _ensemble(spec),
    }


def _ensemble(spec: HeadsSpec) -> str:
    stage = spec.ensemble
    title = f"{spec.base.ensemble.name} and its heads: the models but the last are shared with it."
    return "\n".join(
        [
            HEADER.format(title=title, source="export/heads/spec.py"),
            f'name: "{stage.name}"',
            'platform: "ensemble"',
            f"max_batch_size: {spec.base.serving.max_batch_size}",
            tensor_list("input", stage.inputs),
            tensor_list("output", stage.outputs),
            ensemble_scheduling(spec.steps, stage),
            parameter_list(spec.client_parameters),
        ]
    )
