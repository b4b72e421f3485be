"""Write an adapter as an ensemble of its own, which shares the stages of its base.

An ensemble needs no process. It makes an adapter a model like any other: Triton loads, unloads and
counts it, and clients choose it by name. They read the parameter `adapter` from its config and send
it to the stages when a stream starts, and with every piece of a file.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.numpy import save_file

from export.errors import UnsupportedOption
from export.formats.packed_adapters import Parts
from export.pbtxt import parameter_list
from export.spec import ADAPTED_CONTRACT_VERSION, CONTRACT_VERSION, served_name

WEIGHTS = "adapter.safetensors"


def write_ensemble(
    folder: Path,
    base: Path,
    role: str,
    base_sha256: str,
    name: str,
    parts: Parts,
) -> Path:
    """Write the adapter `name` into `folder`; return its version folder.

    Args:
        base: folder of the ensemble of the recognizer that the adapter changes.
        role: the role of the ensemble, `asr_streaming` or `asr_offline`.
        base_sha256: hash of the weights of that recognizer.
        parts: the rows of the adapter, by the role of the stage that each part changes.
    """
    ensemble = served_name(name, role)
    version = folder / ensemble / "1"
    version.mkdir(parents=True)
    config = (base / "config.pbtxt").read_text(encoding="utf-8")
    config = _adapted(config, base.name, ensemble, name)
    (version.parent / "config.pbtxt").write_text(config, encoding="utf-8")
    save_file(dict(parts), version / WEIGHTS, {"base_sha256": base_sha256})
    (version / WEIGHTS).chmod(0o644)
    return version


def _adapted(config: str, base: str, ensemble: str, name: str) -> str:
    """Return the config of the base's ensemble, renamed and with the name of the adapter."""
    for old, new in (
        (f'name: "{base}"\n', f'name: "{ensemble}"\n'),
        # Clients without support for adapters would get the base; they refuse this version.
        (
            parameter_list({"contract_version": CONTRACT_VERSION}),
            parameter_list({"contract_version": ADAPTED_CONTRACT_VERSION, "adapter": name}),
        ),
    ):
        if config.count(old) != 1:
            raise UnsupportedOption(
                f"expected {old!r} once in the config of {base}: export it again"
            )
        config = config.replace(old, new)
    return config
