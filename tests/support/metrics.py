"""Read metrics of a running server."""

from __future__ import annotations

import re
import urllib.request

from server.launch import Triton


def metric(triton: Triton, name: str, model: str, **labels: str) -> float:
    """The sum of a metric over a model's instances."""
    with urllib.request.urlopen(triton.metrics_url, timeout=60) as response:
        lines = response.read().decode().splitlines()
    values: list[float] = []
    for line in lines:
        found = re.fullmatch(rf"{name}{{(.*)}} (\S+)", line)
        wanted = {"model": model, **labels}
        if found and all(f'{key}="{value}"' in found[1] for key, value in wanted.items()):
            values.append(float(found[2]))
    assert values, f"no metric {name} of {model}"
    return sum(values)
