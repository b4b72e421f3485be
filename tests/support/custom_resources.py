"""Schemas of custom resources of the chart: KEDA's and the Prometheus operator's."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

import jsonschema
from referencing import Registry, Resource

from tests.support.helm import KUBERNETES
from tests.support.project import PROJECT

SCHEMAS = PROJECT / "tests" / "deploy" / "schemas"
KUBERNETES_TYPES = "https://kubernetes.io/api/_definitions.json"


@functools.cache
def kubernetes_types() -> dict[str, Any]:
    """Return the schemas of the types of Kubernetes, without properties that they do not have."""
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema"
    types = folder / f"v{KUBERNETES}.0-local-strict" / "_definitions.json"
    return json.loads(types.read_text())


def check_custom_resource(thing: dict[str, Any]) -> None:
    """Raise jsonschema.ValidationError if an object is not what its kind is defined to be."""
    schema = json.loads((SCHEMAS / f"{thing['kind'].lower()}.json").read_text())
    registry = Registry().with_resource(
        KUBERNETES_TYPES, Resource.from_contents(kubernetes_types())
    )
    jsonschema.Draft202012Validator(schema, registry=registry).validate(thing)
